/* What several threads do at the same moment: a wake while the sleeper's page is read from the
 * disk, ends of the last threads, two that list one open directory, two that send from one open
 * file, exec beside running threads. Prints the same on every kernel. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 4, WAKES = 12, ENDS = 60, NAMES = 300, BYTES = 64 * PAGE };

#ifdef __NR_futex
#define FUTEX __NR_futex
#else
#define FUTEX __NR_futex_time64
#endif

static int failed;

static void check(const char *what, long got, long wanted)
{
    printf("%s: %ld of %ld\n", what, got, wanted);
    failed += got != wanted;
    fflush(stdout);
}

/* Both come before either goes on. */
static atomic_int here;

static void meet(int of)
{
    int place = atomic_fetch_add(&here, 1);

    for (int whole = place - place % of + of; atomic_load(&here) < whole;)
        ;
}

/* A page of the file for each word: the first look at it waits for the disk. */
static int words[WAKES * WORDS] = { [0 ... WAKES * WORDS - 1] = 1 };

static void *sleeper(void *word)
{
    struct timespec patience = { 30, 0 };

    meet(2);
    return (void *)syscall(FUTEX, word, FUTEX_WAIT, 1, &patience, NULL, 0);
}

/* Nobody changes the word: who was counted as woken has been woken. */
static void wakes(void)
{
    int woken = 0;

    for (int i = 0; i < WAKES; i++) {
        pthread_t thread;
        void *result;
        pthread_create(&thread, NULL, sleeper, &words[i * WORDS]);
        meet(2);
        for (time_t end = time(NULL) + 20; time(NULL) < end;)
            if (syscall(FUTEX, &words[i * WORDS], FUTEX_WAKE, 1, NULL, NULL, 0) == 1)
                break;
        pthread_join(thread, &result);
        woken += result == NULL;
    }
    check("woken while the page is read", woken, WAKES);
}

static void *exits(void *code)
{
    meet(3);
    syscall(SYS_exit, (long)code);
    return NULL;
}

static void *exits_all(void *code)
{
    meet(3);
    syscall(SYS_exit_group, (long)code);
    return NULL;
}

/* Three threads end at once, each in its way; answers how often the process had that status. */
static int ends(void *(*second)(void *), long code, int wanted)
{
    int right = 0;

    for (int i = 0; i < ENDS; i++) {
        int status = 0;
        pid_t child = fork();
        if (child == 0) {
            pthread_t thread;
            atomic_store(&here, 0);
            pthread_create(&thread, NULL, exits, (void *)5);
            pthread_create(&thread, NULL, second, (void *)code);
            exits((void *)5);
        }
        waitpid(child, &status, 0);
        right += WIFEXITED(status) && WEXITSTATUS(status) == wanted;
    }
    return right;
}

static int directory, file, null;
static unsigned char seen[2][NAMES];

static void *lists(void *name)
{
    unsigned char *mine = seen[(long)name];
    char buffer[300];
    long bytes;

    meet(2);
    while ((bytes = syscall(SYS_getdents64, directory, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < bytes;) {
            struct dirent64 *entry = (struct dirent64 *)(buffer + at);
            if (entry->d_name[0] == 'n')
                mine[atoi(entry->d_name + 1)]++;
            at += entry->d_reclen;
        }
    return (void *)bytes;
}

static void *sends(void *name)
{
    long all = 0, sent;

    (void)name;
    meet(2);
    while ((sent = sendfile(null, file, NULL, 3000)) > 0)
        all += sent;
    return (void *)(sent < 0 ? -1 : all);
}

static long both(void *(*work)(void *))
{
    pthread_t threads[2];
    void *results[2];

    for (long i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, work, (void *)i);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], &results[i]);
    return (long)results[0] + (long)results[1];
}

static void *runs(void *unused)
{
    for (volatile unsigned long i = 0;; i++)
        ;
    return unused;
}

static void *becomes(void *unused)
{
    char *arguments[] = { "sh", "-c", "exit 9", NULL };

    meet(2);
    execv("/bin/sh", arguments);
    return unused;
}

int main(void)
{
    int once = 0, right = 0;
    char name[32];

    wakes();
    check("ended by the last exit", ends(exits, 5, 5), ENDS);
    check("ended by exit_group", ends(exits_all, 7, 7), ENDS);

    mkdir("/tmp/names", 0700);
    for (int i = 0; i < NAMES; i++) {
        snprintf(name, sizeof name, "/tmp/names/n%d", i);
        close(open(name, O_CREAT | O_WRONLY, 0600));
    }
    directory = open("/tmp/names", O_RDONLY | O_DIRECTORY);
    failed += both(lists) != 0;
    for (int i = 0; i < NAMES; i++)
        once += seen[0][i] + seen[1][i] == 1;
    check("names listed once", once, NAMES);

    file = open("/tmp/names/n0", O_RDWR);
    null = open("/dev/null", O_WRONLY);
    ftruncate(file, BYTES);
    check("bytes sent once", both(sends), BYTES);

    /* A thread that is not the first becomes another program, the others compute. */
    for (int i = 0; i < ENDS / 4; i++) {
        int status = 0;
        pid_t child = fork();
        if (child == 0) {
            pthread_t thread;
            atomic_store(&here, 0);
            pthread_create(&thread, NULL, runs, NULL);
            pthread_create(&thread, NULL, becomes, NULL);
            meet(2);
            runs(NULL);
        }
        waitpid(child, &status, 0);
        right += WIFEXITED(status) && WEXITSTATUS(status) == 9;
    }
    check("became another program", right, ENDS / 4);
    return failed != 0;
}
