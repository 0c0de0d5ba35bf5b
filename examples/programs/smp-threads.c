/* Threads on all CPUs that share one address space: a mutex and a condition variable hand work
 * around, every thread maps, protects and unmaps beside the others, some of them in the same few
 * pages, and threads fork. Every result is checked. Prints the same on every kernel. With any
 * argument the threads compute for ever instead, for who wants to kill them where they run. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 6, ITEMS = 600, SLOTS = 8, ROUNDS = 10, PAGE = 4096, SPAN = 16, FORKS = 3 };

static pthread_barrier_t barrier;

/* A queue between producers (even names) and consumers (odd ones). */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t not_full = PTHREAD_COND_INITIALIZER;
static pthread_cond_t not_empty = PTHREAD_COND_INITIALIZER;
static unsigned long slots[SLOTS], put, taken, sum;

static void *queue(void *name)
{
    int produces = (unsigned long)name % 2 == 0;

    pthread_barrier_wait(&barrier);
    for (unsigned long item = 1; item <= ITEMS; item++) {
        pthread_mutex_lock(&mutex);
        if (produces) {
            while (put - taken == SLOTS)
                pthread_cond_wait(&not_full, &mutex);
            slots[put++ % SLOTS] = item;
            pthread_cond_signal(&not_empty);
        } else {
            while (put == taken)
                pthread_cond_wait(&not_empty, &mutex);
            sum += slots[taken++ % SLOTS];
            pthread_cond_signal(&not_full);
        }
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

/* Stores through pages that others protect and open again: each store must arrive. */
static unsigned char *arena;
static atomic_int faults;

static void *own_pages(void *name)
{
    unsigned long me = (unsigned long)name;
    int zero = 0;

    pthread_barrier_wait(&barrier);
    for (int round = 0; round < ROUNDS; round++) {
        unsigned char *pages = mmap(NULL, SPAN * PAGE, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        unsigned char value = (unsigned char)(me * 31 + round + 1);
        if (pages == MAP_FAILED)
            return (void *)1;
        zero |= pages[0] | pages[(SPAN - 1) * PAGE];
        for (int page = 0; page < SPAN; page++)
            memset(pages + page * PAGE, value, 64);
        if (mprotect(pages + 4 * PAGE, 4 * PAGE, PROT_READ) != 0)
            return (void *)2;
        if (munmap(pages + 8 * PAGE, 2 * PAGE) != 0)
            return (void *)3;
        /* A hole that somebody else may take before it is filled: where, the kernel decides. */
        unsigned char *more = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (more == MAP_FAILED || more[0] != 0 || more[PAGE] != 0)
            return (void *)4;
        more[0] = value;
        for (int page = 0; page < SPAN; page++)
            if (page != 8 && page != 9 && pages[page * PAGE + 63] != value)
                return (void *)5;
        if (more[0] != value || munmap(more, 2 * PAGE) != 0)
            return (void *)6;
        if (munmap(pages, 8 * PAGE) != 0 || munmap(pages + 10 * PAGE, 6 * PAGE) != 0)
            return (void *)7;
    }
    return zero == 0 ? NULL : (void *)8;
}

/* All threads count in one byte each of the same pages, while the first one replaces the pages'
 * rights; a store that finds its page closed is caught and tried again. */
static __thread volatile sig_atomic_t caught;

static void on_fault(int signal)
{
    (void)signal;
    caught++;
    atomic_fetch_add(&faults, 1);
    mprotect(arena, SPAN * PAGE, PROT_READ | PROT_WRITE);
}

static void *same_pages(void *name)
{
    unsigned long me = (unsigned long)name;

    pthread_barrier_wait(&barrier);
    for (int round = 0; round < ROUNDS; round++) {
        if (me == 0 && mprotect(arena, SPAN * PAGE, PROT_READ) != 0)
            return (void *)1;
        for (int page = 0; page < SPAN; page++) {
            volatile unsigned char *place = arena + page * PAGE + me;
            unsigned char before = *place;
            *place = (unsigned char)(before + 1);
            if (*place != (unsigned char)(before + 1))
                return (void *)2;
        }
    }
    return NULL;
}

/* Forks while the others do; the child sees a copy, and the parent's pages stay the parent's. */
static void *forks(void *name)
{
    unsigned long me = (unsigned long)name;
    unsigned char *page = arena + me * PAGE;

    pthread_barrier_wait(&barrier);
    for (int round = 0; round < FORKS; round++) {
        page[100] = (unsigned char)(round + 1);
        pid_t child = fork();
        if (child < 0)
            return (void *)1;
        if (child == 0) {
            int good = page[100] == round + 1;
            memset(arena, 0xee, SPAN * PAGE);
            _exit(good && page[100] == 0xee ? 40 + (int)me : 1);
        }
        page[101] = (unsigned char)~round;
        int status = 0;
        while (waitpid(child, &status, 0) < 0)
            if (errno != EINTR)
                return (void *)2;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 40 + (int)me)
            return (void *)3;
        if (page[100] != round + 1 || page[101] != (unsigned char)~round)
            return (void *)4;
    }
    return NULL;
}

/* Computes for a while, so that there is something to balance. */
static void *compute(void *name)
{
    unsigned long value = (unsigned long)name + 1, check;

    pthread_barrier_wait(&barrier);
    for (unsigned long i = 0; i < 8000000; i++)
        value = value * 1103515245ul + 12345ul;
    check = value;
    value = (unsigned long)name + 1;
    for (unsigned long i = 0; i < 8000000; i++)
        value = value * 1103515245ul + 12345ul;
    return value == check ? NULL : (void *)1;
}

/* Runs `work` in all threads; returns how many of them failed. */
static int all(const char *what, void *(*work)(void *))
{
    pthread_t threads[THREADS];
    int failed = 0;

    for (unsigned long name = 0; name < THREADS; name++)
        if (pthread_create(&threads[name], NULL, work, (void *)name) != 0) {
            printf("%s: thread %lu cannot start\n", what, name);
            exit(1);
        }
    for (int name = 0; name < THREADS; name++) {
        void *result;
        pthread_join(threads[name], &result);
        if (result != NULL)
            printf("%s: thread %d failed at %ld\n", what, name, (long)result);
        failed += result != NULL;
    }
    printf("%s: %d of %d threads failed\n", what, failed, THREADS);
    fflush(stdout);
    return failed;
}

int main(int argc, char **argv)
{
    int failed = 0, counted = 0;
    unsigned long expected = THREADS / 2 * (ITEMS * (ITEMS + 1ul) / 2);

    (void)argv;
    pthread_barrier_init(&barrier, NULL, THREADS);
    while (argc > 1)
        if (all("compute", compute) != 0)
            return 1;
    failed += all("queue", queue);
    printf("sum %lu of %lu, %lu put, %lu taken\n", sum, expected, put, taken);
    failed += sum != expected || put != taken;

    failed += all("own pages", own_pages);

    arena = mmap(NULL, SPAN * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct sigaction action = { .sa_handler = on_fault };
    sigaction(SIGSEGV, &action, NULL);
    failed += all("same pages", same_pages);
    for (int page = 0; page < SPAN; page++)
        for (int name = 0; name < THREADS; name++)
            counted += arena[page * PAGE + name];
    printf("counted %d of %d, some faults: %s\n", counted, SPAN * THREADS * ROUNDS,
           atomic_load(&faults) > 0 ? "yes" : "NO");
    failed += counted != SPAN * THREADS * ROUNDS || atomic_load(&faults) == 0;

    mprotect(arena, SPAN * PAGE, PROT_READ | PROT_WRITE);
    failed += all("forks", forks);
    failed += all("compute", compute);
    return failed != 0;
}
