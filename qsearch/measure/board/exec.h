/* Runs the file `command` of a folder by sh, there, with the files stdin, stdout and stderr as its streams. */
#ifndef QS_EXEC_H
#define QS_EXEC_H
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void qs_redirect(const char *name, int flags, int to) {
  int file = open(name, flags, 0600);
  if (file < 0 || dup2(file, to) < 0) _exit(126);
}

/* The exit status, 128 + the signal that ended it, or -1 where it was stopped after timeout_ms or could not start. */
static int64_t qs_exec(const char *folder, int64_t timeout_ms) {
  pid_t pid = fork();
  if (pid < 0) return -1;
  if (pid == 0) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (chdir(folder)) _exit(126);
    qs_redirect("stdin", O_RDONLY, 0);
    qs_redirect("stdout", O_WRONLY | O_CREAT | O_TRUNC, 1);
    qs_redirect("stderr", O_WRONLY | O_CREAT | O_TRUNC, 2);
    execlp("sh", "sh", "command", (char *)NULL);
    _exit(127);
  }
  int status;
  int64_t step_ms = 1;
  for (int64_t waited_ms = 0; waitpid(pid, &status, WNOHANG) == 0; waited_ms += step_ms) {
    if (waited_ms > timeout_ms) {
      kill(-pid, SIGKILL);
      waitpid(pid, &status, 0);
      return -1;
    }
    step_ms = step_ms < 20 ? step_ms * 2 : 20; /* seldom, for a network may be timing itself meanwhile */
    nanosleep(&(struct timespec){0, step_ms * 1000000}, NULL);
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
#endif
