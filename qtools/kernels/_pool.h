/* Threads that wait for work. The caller works too and waits only for pieces that are begun, so a
 * thread that does not wake costs nothing. With one thread none of this runs. */
#ifndef QTOOLS_POOL_H
#define QTOOLS_POOL_H

#include <pthread.h>
#include <signal.h>
#include <stdint.h>

#define MOST_THREADS 256

typedef struct {
    void (*piece)(const void *task, int64_t index, char *scratch);
    const void *task;
    int64_t pieces, next; /* next: atomic */
    char *scratch;
    int64_t scratch_bytes; /* of each thread */
    int seats, taken, active; /* threads beside the caller; under the lock */
} Work;

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER, pool_caller = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t pool_wake = PTHREAD_COND_INITIALIZER, pool_done = PTHREAD_COND_INITIALIZER;
static Work *pool_work;
static int pool_threads, pool_has_handler;

static void pool_do(Work *work, int seat) {
    char *scratch = work->scratch + seat * work->scratch_bytes;
    int64_t index;
    while ((index = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < work->pieces)
        work->piece(work->task, index, scratch);
}

static void *pool_thread(void *unused) {
    (void)unused;
    pthread_mutex_lock(&pool_lock);
    for (;;) {
        while (!pool_work || pool_work->taken == pool_work->seats)
            pthread_cond_wait(&pool_wake, &pool_lock);
        Work *work = pool_work;
        int seat = ++work->taken;
        work->active++;
        pthread_mutex_unlock(&pool_lock);
        pool_do(work, seat);
        pthread_mutex_lock(&pool_lock);
        if (--work->active == 0) pthread_cond_signal(&pool_done);
    }
    return NULL;
}

/* A forked child has no threads, whatever its memory says. */
static void pool_forget(void) {
    pthread_mutex_init(&pool_lock, NULL);
    pthread_mutex_init(&pool_caller, NULL);
    pthread_cond_init(&pool_wake, NULL);
    pthread_cond_init(&pool_done, NULL);
    pool_work = NULL;
    pool_threads = 0;
}

static void pool_grow(int threads) { /* under the lock */
    sigset_t all, before;
    sigfillset(&all);
    if (!pool_has_handler) pool_has_handler = !pthread_atfork(NULL, NULL, pool_forget);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool_threads < threads) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, pool_thread, NULL)) break;
        pthread_detach(thread);
        pool_threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* All pieces, by up to `threads` threads with the caller; alone if another caller has them. */
static void pool_run(Work *work, int threads) {
    if (threads < 2 || pthread_mutex_trylock(&pool_caller)) {
        pool_do(work, 0);
        return;
    }
    pthread_mutex_lock(&pool_lock);
    pool_grow(threads - 1);
    work->seats = threads - 1;
    pool_work = work;
    pthread_cond_broadcast(&pool_wake);
    pthread_mutex_unlock(&pool_lock);
    pool_do(work, 0);
    pthread_mutex_lock(&pool_lock);
    pool_work = NULL;
    while (work->active) pthread_cond_wait(&pool_done, &pool_lock);
    pthread_mutex_unlock(&pool_lock);
    pthread_mutex_unlock(&pool_caller);
}

#endif
