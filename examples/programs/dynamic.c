/* A dynamic program: its libraries are mapped and bound by its interpreter, which the kernel
 * started in its place. Built against the host's C library, or its cross compiler's; prints the
 * same on every kernel. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/wait.h>
#include <unistd.h>

#define AGAIN "again"

static int failed;
static int constructed;
static __thread int own = 7;

__attribute__((constructor)) static void construct(void)
{
    constructed = 1;
}

static void expect(const char *what, int is)
{
    printf("%s: %s\n", what, is ? "ok" : "WRONG");
    failed += !is;
}

/* Counts the libraries that are loaded, and finds the interpreter among them. */
static int library(struct dl_phdr_info *info, size_t size, void *interpreter)
{
    (void)size;
    if (info->dlpi_addr != 0 && info->dlpi_addr == getauxval(AT_BASE))
        *(int *)interpreter = 1;
    return 0;
}

/* Whether /proc/self/maps names a file that ends in `name`. */
static int mapped(const char *name)
{
    static char maps[65536];
    size_t bytes = 0;
    ssize_t part;
    int file = open("/proc/self/maps", O_RDONLY);

    while ((part = read(file, maps + bytes, sizeof maps - 1 - bytes)) > 0)
        bytes += (size_t)part;
    close(file);
    maps[bytes] = 0;
    return strstr(maps, name) != NULL;
}

/* Where the interpreter has written, and has forbidden writes since. */
static const char *const closed[] = { "relocated", "read-only" };

static int dies_by_a_store(const char *const *place)
{
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        *(const char *volatile *)place = NULL;
        _exit(0);
    }
    waitpid(child, &status, 0);
    return WIFSIGNALED(status);
}

static void *thread(void *seen)
{
    *(int *)seen = own;
    own = 8;
    return NULL;
}

static int runs_again(char *program)
{
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        execl(program, program, AGAIN, (char *)NULL);
        _exit(99);
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 42;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], AGAIN) == 0)
        return 42;

    int interpreter = 0, seen = 0;
    pthread_t other;
    volatile double quarter = argc / 4.0;

    expect("constructors ran", constructed);
    dl_iterate_phdr(library, &interpreter);
    expect("the kernel's AT_BASE is the interpreter's", interpreter);
    expect("a function of a second library", fabs(cos(acos(quarter)) - 0.25) < 1e-9);
    expect("the libraries are mapped files", mapped("/libc.so.6\n") && mapped("/libm.so.6\n"));
    expect("closed after relocation", closed[0] != NULL && dies_by_a_store(closed));
    pthread_create(&other, NULL, thread, &seen);
    pthread_join(other, NULL);
    expect("thread-local storage", seen == 7 && own == 7);
    expect("a library that is already there", dlopen("libm.so.6", RTLD_NOW) != NULL);
    expect("a library that is nowhere", dlopen("libnone.so.0", RTLD_NOW) == NULL);
    expect("a dynamic program runs another", runs_again(argv[0]));
    printf("dynamic: %d parts went wrong\n", failed);
    return failed != 0;
}
