/* Threads that share an address space: one maps and unmaps while others fault, and all of them
 * allocate. Built statically against the host's C library; prints the same on every kernel. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 2000, PAGES = 64, PAGE = 4096 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t barrier;
static unsigned long counter;
static unsigned char *shared;
static __thread unsigned long own;

/* Adds to a counter under a lock, and allocates and frees blocks of many sizes. */
static void *count(void *name)
{
    unsigned long seed = (unsigned long)name + 1;
    void *kept[16] = { 0 };

    pthread_barrier_wait(&barrier);
    for (int round = 0; round < ROUNDS; round++) {
        seed = seed * 6364136223846793005ul + 1442695040888963407ul;
        void **place = &kept[seed >> 60];
        free(*place);
        *place = malloc((seed >> 40) % 5000 + 1);
        if (*place == NULL)
            return (void *)1;
        memset(*place, 1, (seed >> 40) % 5000 + 1);
        own++;
        pthread_mutex_lock(&mutex);
        counter++;
        pthread_mutex_unlock(&mutex);
    }
    for (int i = 0; i < 16; i++)
        free(kept[i]);
    return own == ROUNDS ? NULL : (void *)2;
}

/* Writes to its pages of a shared mapping, so that all threads fault on neighbouring pages. */
static void *touch(void *name)
{
    unsigned long first = (unsigned long)name;

    pthread_barrier_wait(&barrier);
    for (unsigned long page = first; page < PAGES; page += THREADS)
        shared[page * PAGE] = (unsigned char)(page + 1);
    return NULL;
}

/* Maps, writes, protects and unmaps regions of its own, beside those of the other threads. */
static void *remap(void *name)
{
    (void)name;
    pthread_barrier_wait(&barrier);
    for (int round = 0; round < 100; round++) {
        unsigned char *own_pages = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (own_pages == MAP_FAILED)
            return (void *)1;
        for (int page = 0; page < 8; page++)
            own_pages[page * PAGE] = (unsigned char)round;
        if (mprotect(own_pages + 2 * PAGE, PAGE, PROT_READ) != 0)
            return (void *)2;
        if (munmap(own_pages + 4 * PAGE, PAGE) != 0)
            return (void *)3;
        if (own_pages[2 * PAGE] != (unsigned char)round)
            return (void *)4;
        if (munmap(own_pages, 8 * PAGE) != 0)
            return (void *)5;
    }
    return NULL;
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
        failed += result != NULL;
    }
    printf("%s: %d of %d threads failed\n", what, failed, THREADS);
    fflush(stdout);
    return failed;
}

int main(void)
{
    int failed = 0;
    unsigned long sum = 0;

    pthread_barrier_init(&barrier, NULL, THREADS);
    failed += all("count", count);
    printf("counter %lu\n", counter);

    shared = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    failed += all("touch", touch);
    for (int page = 0; page < PAGES; page++)
        sum += shared[page * PAGE];
    printf("sum %lu\n", sum);

    failed += all("remap", remap);

    /* A child of a process with threads gets a copy of all of it. */
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        memset(shared, 0, PAGES * PAGE);
        _exit(shared[PAGE] == 0 ? 7 : 8);
    }
    int status = 0;
    waitpid(child, &status, 0);
    printf("child %d, ours %d\n", WEXITSTATUS(status), shared[PAGE]);
    return failed != 0 || counter != THREADS * ROUNDS;
}
