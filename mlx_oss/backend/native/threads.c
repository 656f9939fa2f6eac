/* The pool of threads. The caller takes jobs like all others, and does not wait for a thread that sleeps too long. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

#include "kernels.h"

/* A waiting thread looks LOOKS times for jobs, some 50 microseconds. Then it lets other threads run between two looks,
 * and after PATIENCE looks, a few milliseconds, it sleeps. Until the next product of a token takes less than that, and
 * waking a thread takes long. */
enum { MOST_THREADS = 256, LOOKS = 700, PATIENCE = 20000 };

/* How many threads may take jobs in the upper half, and how many jobs nobody has taken yet in the lower half. Lowering
 * that takes a job, whatever has happened since a thread looked: what it needs to know of the task it reads only then,
 * and a task stays until its jobs are done. */
static _Atomic uint64_t left;
static _Atomic int done, sleeping, wanted = 1;
static struct { Task *task; const void *context; int count; } now;
static int started = 1; /* threads, the caller included */
static pthread_mutex_t one_caller = PTHREAD_MUTEX_INITIALIZER, mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t awake = PTHREAD_COND_INITIALIZER;

static void look_again(int looks) {
    if (looks >= LOOKS) sched_yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static int may_take(int thread, uint64_t seen) { return (uint32_t)seen > 0 && (uint64_t)thread < seen >> 32; }

static void help(int thread) {
    for (uint64_t seen = atomic_load(&left); may_take(thread, seen); seen = atomic_load(&left))
        if (atomic_compare_exchange_weak(&left, &seen, seen - 1)) {
            now.task(now.context, now.count - (int)(uint32_t)seen, thread);
            atomic_fetch_add(&done, 1);
        }
}

static void *work(void *number) {
    for (int thread = (int)(intptr_t)number;; help(thread)) {
        for (int looks = 0; looks < PATIENCE && !may_take(thread, atomic_load(&left)); looks++) look_again(looks);
        if (may_take(thread, atomic_load(&left))) continue;
        pthread_mutex_lock(&mutex);
        for (atomic_fetch_add(&sleeping, 1); !may_take(thread, atomic_load(&left));) pthread_cond_wait(&awake, &mutex);
        atomic_fetch_sub(&sleeping, 1);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

/* A forked child has none of the threads, and the mutexes are as they were at that moment. */
static void after_fork(void) {
    started = 1;
    atomic_store(&left, 0), atomic_store(&sleeping, 0);
    one_caller = mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    awake = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

__attribute__((constructor)) static void at_load(void) { pthread_atfork(NULL, NULL, after_fork); }

static void start(int count) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before); /* signals are for the threads of Python */
    for (pthread_t thread; started < count; started++) {
        if (pthread_create(&thread, NULL, work, (void *)(intptr_t)started) != 0) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void run_jobs(Task *task, const void *context, int count, int most) {
    if (count < 2 || most < 2 || pthread_mutex_trylock(&one_caller) != 0) {
        for (int job = 0; job < count; job++) task(context, job, 0);
        return;
    }
    if (started < most) start(most);
    now.task = task, now.context = context, now.count = count;
    atomic_store(&done, 0);
    atomic_store(&left, (uint64_t)most << 32 | (uint32_t)count);
    if (atomic_load(&sleeping) > 0) {
        pthread_mutex_lock(&mutex);
        pthread_cond_broadcast(&awake);
        pthread_mutex_unlock(&mutex);
    }
    help(0);
    for (int looks = 0; atomic_load(&done) < count; looks++) look_again(looks);
    pthread_mutex_unlock(&one_caller);
}

void set_threads(int count) { atomic_store(&wanted, count < 1 ? 1 : count > MOST_THREADS ? MOST_THREADS : count); }
int threads(void) { return atomic_load(&wanted); }
