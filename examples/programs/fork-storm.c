/* A tree of processes on all CPUs: every process forks, writes to pages that it shares with its
 * relatives, and checks that nobody else's writes arrive. Prints the same on every kernel. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DEPTH = 3, WIDTH = 3, PAGES = 24, PAGE = 4096, STORMS = 2 };

static unsigned char *pages;
static unsigned *born;

/* Fills each page's first bytes with this process's mark. */
static void mark(unsigned char value)
{
    for (int page = 0; page < PAGES; page++)
        memset(pages + page * PAGE, value, 32);
}

static int has_mark(unsigned char value)
{
    for (int page = 0; page < PAGES; page++)
        if (pages[page * PAGE] != value || pages[page * PAGE + 31] != value)
            return 0;
    return 1;
}

/* One process: makes its children, and returns how many of its descendants and itself failed. */
static int grow(int depth, unsigned char value)
{
    pid_t children[WIDTH];
    int failed = 0;

    __atomic_fetch_add(born, 1, __ATOMIC_SEQ_CST);
    mark(value);
    if (depth == 0)
        return !has_mark(value);
    for (int child = 0; child < WIDTH; child++) {
        children[child] = fork();
        if (children[child] == 0) {
            int inherited = has_mark(value);
            int below = grow(depth - 1, (unsigned char)(value * WIDTH + child + 1));
            _exit(inherited ? below : 100);
        }
        failed += children[child] < 0;
    }
    for (int child = 0; child < WIDTH; child++) {
        int status = 0;
        while (children[child] > 0 && waitpid(children[child], &status, 0) < 0)
            if (errno != EINTR)
                failed++;
        failed += WIFEXITED(status) ? WEXITSTATUS(status) : 50;
    }
    return failed + !has_mark(value);
}

int main(void)
{
    int failed = 0;
    unsigned expected = 0;

    for (unsigned depth = 0, level = 1; depth <= DEPTH; depth++, level *= WIDTH)
        expected += level;
    born = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pages = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (born == MAP_FAILED || pages == MAP_FAILED)
        return 2;
    for (int storm = 0; storm < STORMS; storm++) {
        *born = 0;
        int wrong = grow(DEPTH, 1);
        printf("storm %d: %u of %u processes, %d failed\n", storm, *born, expected, wrong);
        fflush(stdout);
        failed += wrong != 0 || *born != expected;
    }
    return failed != 0;
}
