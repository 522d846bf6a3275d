/* Four programs of operating systems' lectures, in one: what computing, system calls, the vDSO and processes cost.
 * guest-work NAME: does it, and prints its name and the nanoseconds that it took. */
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void sum(void)
{
	unsigned long total = 0;
	for (unsigned long n = 0; n < 500000000; n++) {
		total += n;
		/* Or it would be a formula. */
		__asm__ volatile("" : "+r"(total));
	}
}

static void parent(void)
{
	for (int n = 0; n < 2000000; n++)
		syscall(SYS_getppid);
}

static void time_of_day(void)
{
	struct timeval now;
	for (int n = 0; n < 4000000; n++)
		gettimeofday(&now, NULL);
}

static void children(void)
{
	for (int n = 0; n < 1000; n++) {
		pid_t child = fork();
		if (child == 0)
			_exit(0);
		waitpid(child, NULL, 0);
	}
}

static const struct {
	const char *name;
	void (*work)(void);
} table[] = {
	{ "sum", sum },
	{ "getppid", parent },
	{ "gettimeofday", time_of_day },
	{ "fork+wait", children },
};

int main(int count, char **words)
{
	for (unsigned n = 0; n < sizeof table / sizeof *table; n++) {
		struct timespec begin, end;
		if (count < 2 || strcmp(words[1], table[n].name) != 0)
			continue;
		clock_gettime(CLOCK_MONOTONIC, &begin);
		table[n].work();
		clock_gettime(CLOCK_MONOTONIC, &end);
		printf("work: %s %lld\n", table[n].name,
		       (end.tv_sec - begin.tv_sec) * 1000000000LL + (end.tv_nsec - begin.tv_nsec));
		return 0;
	}
	fputs("guest-work: sum, getppid, gettimeofday or fork+wait?\n", stderr);
	return 2;
}
