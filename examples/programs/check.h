/* What the test programs have in common: a check that speaks when something is wrong, and the answers of
 * calls as one number. */
#include <errno.h>
#include <stdio.h>

static int failed;

static inline void check(const char *what, long got, long wanted)
{
    if (got == wanted)
        return;
    printf("%s: %ld instead of %ld\n", what, got, wanted);
    failed = 1;
}

/* The same, and says also what is right: where a program may never come to its end. */
static inline void tell(const char *what, long got, long wanted)
{
    check(what, got, wanted);
    if (got == wanted)
        printf("%s: ok\n", what);
    fflush(stdout);
}

/* What a call answered, or its error, below zero. */
static inline long answer(long result)
{
    return result < 0 ? -errno : result;
}
