/* A pool of worker threads whose size is chosen at run time. Every context owns one, so contexts never wait for each
 * other. Workers spin briefly before they sleep: between two layers of a network the pause is only microseconds. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "qs_network.h"

enum { QS_SPINS = 4000, QS_MAX_THREADS = 256, QS_TASKS_PER_THREAD = 64, QS_SCRATCH = 128 << 10 };

/* Behind a lock: a program that links this library may have another C library than it was compiled for, and the largest
 * lock of all (glibc's on AArch64) has 48 bytes. */
#define QS_ROOM(name, type) uint8_t room_of_##name[64 - sizeof(type)]

/* Kernels ask for small temporaries in every task: they come from a block of the thread that empties itself when the
 * last one is returned, and only what does not fit comes from the heap. */
typedef struct {
  _Alignas(QS_ALIGN) uint8_t memory[QS_SCRATCH];
  uint64_t used;
  int living;
} qs_scratch;

typedef struct {
  pthread_mutex_t lock;
  QS_ROOM(lock, pthread_mutex_t);
  pthread_cond_t wake;
  QS_ROOM(wake, pthread_cond_t);
  pthread_cond_t finished;
  QS_ROOM(finished, pthread_cond_t);
  pthread_t workers[QS_MAX_THREADS];
  qs_scratch *scratch;    /* one for every thread, or NULL where memory was short */
  atomic_int num_started; /* workers that have taken theirs */
  int num_threads; /* the calling thread and num_threads - 1 workers */
  int num_tasks;   /* of the next launches */
  void *owner;     /* handed to every task's thread through qs_thread_owner */
  qs_task task;
  void *data;
  TVMParallelGroupEnv env;
  atomic_uint generation;
  atomic_int next_task, running, failure;
  int stop;
} qs_pool;

static _Thread_local qs_scratch *qs_thread_scratch;
static _Thread_local void *qs_thread_owner; /* the context that this thread works for */
static _Thread_local int qs_in_task;        /* a launch inside a task runs serially */

static inline void qs_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || (defined(__arm__) && __ARM_ARCH >= 7)
  __asm__ volatile("yield");
#endif
}

static int qs_available_cpus(void) {
  unsigned long mask[1024 / (8 * sizeof(long))] = {0};
  int count = 0;
  if (sched_getaffinity(0, sizeof mask, (cpu_set_t *)mask) == 0)
    for (size_t i = 0; i < sizeof mask / sizeof mask[0]; i++) count += __builtin_popcountl(mask[i]);
  return count < 1 ? 1 : count > QS_MAX_THREADS ? QS_MAX_THREADS : count;
}

/* Takes runs of neighbouring tasks, long ones first and short ones last, so that rows stay in one cache and yet all
 * threads end together, also where another program holds up one of them (guided self-scheduling, Polychronopoulos and
 * Kuck, 1987). */
static void qs_pool_take_tasks(qs_pool *pool) {
  qs_in_task = 1;
  for (int first = 0, count = 1; count > 0;) {
    first = atomic_load(&pool->next_task);
    do {
      int left = pool->env.num_task - first;
      count = left / (2 * pool->num_threads);
      if (count < 1) count = left > 0;
    } while (!atomic_compare_exchange_weak(&pool->next_task, &first, first + count));
    for (int id = first; id < first + count; id++)
      if (pool->task(id, &pool->env, pool->data) != 0) atomic_store(&pool->failure, -1);
  }
  qs_in_task = 0;
}

static void *qs_pool_worker(void *argument) {
  qs_pool *pool = argument;
  qs_thread_owner = pool->owner;
  int number = 1 + atomic_fetch_add(&pool->num_started, 1);
  qs_thread_scratch = pool->scratch ? &pool->scratch[number] : NULL;
  for (unsigned seen = 0;;) {
    for (int i = 0; i < QS_SPINS && atomic_load_explicit(&pool->generation, memory_order_relaxed) == seen; i++)
      qs_pause();
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->generation) == seen) pthread_cond_wait(&pool->wake, &pool->lock);
    seen = atomic_load(&pool->generation);
    int stop = pool->stop;
    pthread_mutex_unlock(&pool->lock);
    if (stop) return NULL;
    qs_pool_take_tasks(pool);
    if (atomic_fetch_sub(&pool->running, 1) == 1) {
      pthread_mutex_lock(&pool->lock);
      pthread_cond_signal(&pool->finished);
      pthread_mutex_unlock(&pool->lock);
    }
  }
}

static void qs_pool_next_generation(qs_pool *pool) {
  pthread_mutex_lock(&pool->lock);
  atomic_fetch_add(&pool->generation, 1);
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->lock);
}

static int qs_pool_launch(qs_pool *pool, qs_task task, void *data) {
  pool->task = task;
  pool->data = data;
  pool->env = (TVMParallelGroupEnv){NULL, pool->num_tasks};
  atomic_store(&pool->next_task, 0);
  atomic_store(&pool->failure, 0);
  atomic_store(&pool->running, pool->num_threads - 1);
  if (pool->num_threads > 1) qs_pool_next_generation(pool);
  qs_pool_take_tasks(pool);
  for (int i = 0; i < QS_SPINS && atomic_load(&pool->running) > 0; i++) qs_pause();
  if (atomic_load(&pool->running) > 0) {
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->running) > 0) pthread_cond_wait(&pool->finished, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
  }
  return atomic_load(&pool->failure);
}

/* The next launches work on `rows` rows: no more tasks than that. */
static void qs_pool_plan(qs_pool *pool, int64_t rows) {
  int64_t most = (int64_t)pool->num_threads * QS_TASKS_PER_THREAD;
  pool->num_tasks = (int)(rows < most ? rows : most);
}

/* Ends the workers; the pool's own memory stays the caller's. */
static void qs_pool_stop(qs_pool *pool) {
  pool->stop = 1;
  qs_pool_next_generation(pool);
  for (int i = 1; i < pool->num_threads; i++) pthread_join(pool->workers[i], NULL);
  pthread_cond_destroy(&pool->wake);
  pthread_cond_destroy(&pool->finished);
  pthread_mutex_destroy(&pool->lock);
  free(pool->scratch);
}

/* Starts num_threads - 1 workers (0: one thread per available CPU); fewer where the system refuses more. */
static void qs_pool_start(qs_pool *pool, int num_threads, void *owner) {
  if (num_threads < 1) num_threads = qs_available_cpus();
  if (num_threads > QS_MAX_THREADS) num_threads = QS_MAX_THREADS;
  *pool = (qs_pool){.num_threads = 1, .num_tasks = 1, .owner = owner};
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->wake, NULL);
  pthread_cond_init(&pool->finished, NULL);
  pool->scratch = aligned_alloc(QS_ALIGN, (size_t)num_threads * sizeof *pool->scratch);
  for (int i = 0; pool->scratch && i < num_threads; i++) pool->scratch[i].used = 0, pool->scratch[i].living = 0;
  while (pool->num_threads < num_threads &&
         pthread_create(&pool->workers[pool->num_threads], NULL, qs_pool_worker, pool) == 0)
    pool->num_threads++;
}
