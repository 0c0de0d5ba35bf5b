/* A process that is killed while one of its threads sleeps in a read gives its memory back at once
 * (lesson 67): many such processes, one after the other, take more than the machine has. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROCESSES = 40, BYTES = 12 << 20, PAGE = 4096 };

static int never[2];

static void *sleeper(void *unused)
{
    char byte;
    (void)unused;
    _exit(read(never[0], &byte, 1) == 1 ? 3 : 4);
}

static void child(int ready)
{
    pthread_t thread;
    char *memory = malloc(BYTES);
    if (memory == NULL || pthread_create(&thread, NULL, sleeper, NULL) != 0)
        _exit(5);
    for (long at = 0; at < BYTES; at += PAGE)
        ((volatile char *)memory)[at] = 1;
    if (write(ready, "r", 1) != 1)
        _exit(6);
    for (;;)
        pause();
}

int main(void)
{
    int ready[2];
    if (pipe(never) != 0 || pipe(ready) != 0)
        return 2;
    for (int i = 0; i < PROCESSES; i++) {
        char byte;
        int status;
        pid_t pid = fork();
        if (pid == 0)
            child(ready[1]);
        if (pid < 0 || read(ready[0], &byte, 1) != 1)
            return 2;
        kill(pid, SIGKILL);
        if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
            printf("group exit: FAILED, process %d ended with %#x\n", i, status);
            return 1;
        }
    }
    printf("group exit: ok\n");
    return 0;
}
