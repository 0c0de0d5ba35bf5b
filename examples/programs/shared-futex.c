/* Processes that wait for each other in memory they share: mutex, condition and semaphores of
 * pthreads made PTHREAD_PROCESS_SHARED, bare futexes whose names must be told apart, and robust
 * mutexes whose owner dies. A wake that goes to the wrong name leaves a process asleep; the alarm
 * ends it then. Prints the same on every kernel. */
#define _GNU_SOURCE
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CHILDREN = 4, ROUNDS = 500, PAGE = 4096, SECONDS = 120 };

#ifndef SYS_futex
#define SYS_futex SYS_futex_time64
#endif

/* Returns what the call does, or the error negated. */
static long futex(unsigned *word, int op, unsigned value, long milliseconds)
{
    /* As long as the kernel's words, which are not time_t everywhere. */
    struct { long seconds, nanoseconds; } time = { 0, milliseconds * 1000000 };
    long got = syscall(SYS_futex, word, op, value, milliseconds ? &time : NULL, NULL, 0);
    return got < 0 ? -errno : got;
}

static void pause_for(long milliseconds)
{
    nanosleep(&(struct timespec){ 0, milliseconds * 1000000 }, NULL);
}

static void *map(int flags, int fd)
{
    void *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (at == MAP_FAILED)
        exit(2);
    return at;
}

/* Makes a child; the alarm is its own, so that no child outlives a failure. */
static pid_t child(void)
{
    pid_t pid = fork();
    if (pid < 0)
        exit(3);
    if (pid == 0)
        alarm(SECONDS);
    return pid;
}

static int status_of(pid_t pid)
{
    int status = -1;
    waitpid(pid, &status, 0);
    return status;
}

/* Wakes until somebody was there: a waiter needs some time to fall asleep. */
static long wake_one(unsigned *word, int flag)
{
    long woken = 0;
    for (int turn = 0; turn < 2000 && woken == 0; turn++) {
        woken = futex(word, FUTEX_WAKE | flag, 1, 0);
        if (woken == 0)
            pause_for(5);
    }
    return woken;
}

struct meeting {
    pthread_mutex_t mutex;
    pthread_cond_t turned;
    sem_t ping, pong;
    unsigned long sum, turn;
};

/* What the C library makes of futexes. */
static void libraries(void)
{
    struct meeting *meeting = map(MAP_SHARED | MAP_ANONYMOUS, -1);
    pthread_mutexattr_t mutex;
    pthread_condattr_t cond;
    pid_t children[CHILDREN];
    long wrong = 0;

    pthread_mutexattr_init(&mutex);
    pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&meeting->mutex, &mutex);
    pthread_condattr_init(&cond);
    pthread_condattr_setpshared(&cond, PTHREAD_PROCESS_SHARED);
    pthread_cond_init(&meeting->turned, &cond);
    sem_init(&meeting->ping, 1, 0);
    sem_init(&meeting->pong, 1, 0);

    for (int i = 0; i < CHILDREN; i++) {
        if ((children[i] = child()) != 0)
            continue;
        for (int round = 0; round < ROUNDS; round++) {
            pthread_mutex_lock(&meeting->mutex);
            unsigned long sum = meeting->sum;
            if (round % 50 == 0)
                sched_yield();
            meeting->sum = sum + 1;
            pthread_mutex_unlock(&meeting->mutex);
        }
        /* In order, one after the other: each waits for its turn. */
        pthread_mutex_lock(&meeting->mutex);
        while (meeting->turn != (unsigned long)i)
            pthread_cond_wait(&meeting->turned, &meeting->mutex);
        meeting->turn++;
        pthread_cond_broadcast(&meeting->turned);
        pthread_mutex_unlock(&meeting->mutex);
        _exit(0);
    }
    for (int i = 0; i < CHILDREN; i++)
        wrong += status_of(children[i]) != 0;
    tell("children that failed", wrong, 0);
    tell("sum under a shared mutex", meeting->sum, CHILDREN * ROUNDS);
    tell("turns under a shared condition", meeting->turn, CHILDREN);

    pid_t other = child();
    if (other == 0) {
        for (int round = 0; round < ROUNDS; round++) {
            while (sem_wait(&meeting->ping) != 0)
                ;
            meeting->sum++;
            sem_post(&meeting->pong);
        }
        _exit(0);
    }
    meeting->sum = 0;
    for (int round = 0; round < ROUNDS; round++) {
        sem_post(&meeting->ping);
        while (sem_wait(&meeting->pong) != 0)
            ;
    }
    tell("ping-pong through semaphores", meeting->sum, ROUNDS);
    tell("the other player's status", status_of(other), 0);
    munmap(meeting, PAGE);
}

/* A file at two addresses: its name is the file's, not the address's. */
static void elsewhere(void)
{
    int fd = open("/tmp/futex", O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || ftruncate(fd, PAGE) != 0)
        exit(4);
    unsigned *here = map(MAP_SHARED, fd);
    pid_t sleeper = child();
    if (sleeper == 0) {
        unsigned *there = map(MAP_SHARED, fd);
        if (there == here || munmap(here, PAGE) != 0)
            _exit(5);
        _exit(futex(there + 3, FUTEX_WAIT, 0, 0) != 0);
    }
    tell("woken through another address", wake_one(here + 3, 0), 1);
    tell("the sleeper's status", status_of(sleeper), 0);
    close(fd);
    unlink("/tmp/futex");
    munmap(here, PAGE);
}

/* FUTEX_PRIVATE_FLAG reaches nobody in another process, and wakes nobody who waits without. */
static void private_flag(void)
{
    unsigned *word = map(MAP_SHARED | MAP_ANONYMOUS, -1);
    pid_t sleeper = child();
    if (sleeper == 0)
        _exit(futex(word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, 500) != -ETIMEDOUT);
    pause_for(200);
    tell("shared wake of a private wait", futex(word, FUTEX_WAKE, 1, 0), 0);
    tell("private wake in another process", futex(word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, 0), 0);
    tell("private sleeper's status", status_of(sleeper), 0);
    munmap(word, PAGE);
}

/* A private page is another one in each process, whatever the flag says. */
static void private_pages(void)
{
    unsigned *word = map(MAP_PRIVATE | MAP_ANONYMOUS, -1);
    *word = 7;
    pid_t sleeper = child();
    if (sleeper == 0)
        _exit(futex(word, FUTEX_WAIT, 7, 500) != -ETIMEDOUT);
    pause_for(200);
    tell("wake at a private page's address", futex(word, FUTEX_WAKE, 1, 0), 0);
    tell("that sleeper's status", status_of(sleeper), 0);
    munmap(word, PAGE);
}

static void *sleep_on(void *word)
{
    return (void *)futex(word, FUTEX_WAIT, 7, 0);
}

/* Between a wait and its wake the page is shared by a fork and copied by a store. */
static void copied_meanwhile(void)
{
    unsigned *word = map(MAP_PRIVATE | MAP_ANONYMOUS, -1);
    pthread_t sleeper;
    void *result = NULL;

    *word = 7;
    if (pthread_create(&sleeper, NULL, sleep_on, word) != 0)
        exit(6);
    pause_for(200);
    pid_t other = child();
    if (other == 0) {
        pause();
        _exit(0);
    }
    word[1] = 1;
    tell("woken after a copy-on-write", wake_one(word, 0), 1);
    pthread_join(sleeper, &result);
    tell("that thread's result", (long)result, 0);
    kill(other, SIGKILL);
    status_of(other);
    munmap(word, PAGE);
}

/* Who is moved from one shared word to another is found at the second. */
static void requeued(void)
{
    unsigned *words = map(MAP_SHARED | MAP_ANONYMOUS, -1);
    pid_t sleeper = child();
    if (sleeper == 0)
        _exit(futex(words, FUTEX_WAIT, 0, 0) != 0);
    long moved = 0;
    for (int turn = 0; turn < 2000 && moved == 0; turn++) {
        moved = syscall(SYS_futex, words, FUTEX_CMP_REQUEUE, 0, (void *)1, words + 9, 0);
        if (moved == 0)
            pause_for(5);
    }
    tell("moved to another shared word", moved, 1);
    tell("nobody is left at the first", futex(words, FUTEX_WAKE, 1, 0), 0);
    tell("woken at the second", futex(words + 9, FUTEX_WAKE, 1, 0), 1);
    tell("the moved one's status", status_of(sleeper), 0);
    munmap(words, PAGE);
}

struct robust {
    pthread_mutex_t lock;
    volatile int locked;
};

static struct robust *robust_in(void *at)
{
    struct robust *robust = at;
    pthread_mutexattr_t shared;
    pthread_mutexattr_init(&shared);
    pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&shared, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust->lock, &shared);
    robust->locked = 0;
    return robust;
}

static int lock_in_time(struct robust *robust)
{
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 10;
    return pthread_mutex_timedlock(&robust->lock, &end);
}

static void *hold(void *robust)
{
    pthread_mutex_lock(&((struct robust *)robust)->lock);
    ((struct robust *)robust)->locked = 1;
    return NULL;
}

/* Takes the lock of somebody who has died meanwhile, or dies while it is waited for. */
static void inherit(struct robust *robust, const char *whose)
{
    while (!robust->locked)
        pause_for(1);
    tell(whose, lock_in_time(robust), EOWNERDEAD);
    tell("made consistent", pthread_mutex_consistent(&robust->lock), 0);
    pthread_mutex_unlock(&robust->lock);
    tell("locked as ever", lock_in_time(robust), 0);
    pthread_mutex_unlock(&robust->lock);
    robust->locked = 0;
}

/* Who dies with a robust mutex leaves word of it. */
static void robust_mutexes(char *path)
{
    struct robust *robust = robust_in(map(MAP_SHARED | MAP_ANONYMOUS, -1));
    pid_t owner = child();
    if (owner == 0) {
        hold(robust);
        _exit(0);
    }
    status_of(owner);
    inherit(robust, "of a process that exited");
    owner = child();
    if (owner == 0) {
        hold(robust);
        pause();
    }
    while (!robust->locked)
        pause_for(1);
    kill(owner, SIGKILL);
    inherit(robust, "of a process that was killed");
    status_of(owner);
    owner = child();
    if (owner == 0) {
        hold(robust);
        pause_for(300);
        _exit(0);
    }
    inherit(robust, "of a process that exits meanwhile");
    status_of(owner);
    owner = child();
    if (owner == 0) {
        hold(robust);
        pause_for(50);
        execl(path, path, "sleep", NULL);
    }
    inherit(robust, "of a program that was replaced");
    kill(owner, SIGKILL);
    status_of(owner);
    pthread_t thread;
    pthread_create(&thread, NULL, hold, robust);
    pthread_join(thread, NULL);
    inherit(robust, "of a thread that ended");
    munmap(robust, PAGE);
}

/* A list without an end, and one that leads nowhere, are the program's own problem. */
static void robust_lists(void)
{
    struct list { struct list *next; long offset; struct list *pending; };
    pid_t broken = child();
    if (broken == 0) {
        struct list head, entry = { &entry, 0, 0 };
        head = (struct list){ &entry, 0, 0 };
        long set = syscall(SYS_set_robust_list, &head, sizeof head);
        _exit(set != 0);
    }
    tell("a list without an end", status_of(broken), 0);
    broken = child();
    if (broken == 0)
        _exit(syscall(SYS_set_robust_list, (void *)8, sizeof(struct list)) != 0);
    tell("a list that is nowhere", status_of(broken), 0);
    tell("a head of another size", syscall(SYS_set_robust_list, NULL, 1) == -1 ? errno : 0, EINVAL);
}

int main(int count, char **arguments)
{
    if (count > 1) {
        alarm(SECONDS);
        pause();
    }
    alarm(SECONDS);
    libraries();
    elsewhere();
    private_flag();
    private_pages();
    copied_meanwhile();
    requeued();
    robust_mutexes(arguments[0]);
    robust_lists();
    printf("shared futexes: %s\n", failed ? "FAILED" : "ok");
    return failed;
}
