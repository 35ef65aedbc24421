/* The start of a dynamic executable on Android, and what musl's headers call otherwise than bionic, its C library.
 * Source: bionic/libc/arch-common/bionic/crtbegin.c and libc_init_dynamic.cpp of the Android Open Source Project. */

int *__errno(void);
int *__errno_location(void) { return __errno(); }

_Noreturn void __libc_init(void *arguments, void (*at_exit)(void), int (*run)(int, char **, char **),
                           void *const *arrays);
int main(int argc, char **argv);

static int qs_run_main(int argc, char **argv, char **environment) { return (void)environment, main(argc, argv); }

__attribute__((used)) static void qs_start(void *arguments) {
  static void *const no_constructors[8] = {0};
  __libc_init(arguments, 0, qs_run_main, no_constructors);
}

__asm__(".text\n.global _start\n.type _start, %function\n"
        "_start:\n  mov x29, #0\n  mov x30, #0\n  mov x0, sp\n  b qs_start\n");
