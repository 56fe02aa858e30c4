/* The wall clock of one process, as a file says; see stepped_clock.py.
 *
 * Only the C library's own names are replaced, so that the interpreter and OpenSSL see one time.
 * What a real kernel does when its clock is set is done here, too: adjtimex says that nobody
 * disciplines it any more (ntp_clear). Time since boot stays. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#define BILLION 1000000000LL
static const char BOOT_ID[] = "/proc/sys/kernel/random/boot_id";

struct shown {
	_Atomic int64_t ahead_ns;
	_Atomic int64_t waits; /* how often a thread of the process went to sleep for a time */
};
static struct shown *shown;
static struct shown nobody;
static const char *boot_id;

static void see(void)
{
	const char *path = getenv("STEPPED_CLOCK");
	void *seen;
	int fd;

	shown = &nobody;
	if (path == NULL || (fd = open(path, O_RDWR | O_CLOEXEC)) < 0)
		return;
	seen = mmap(NULL, sizeof *shown, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (seen != MAP_FAILED)
		shown = seen;
	boot_id = getenv("STEPPED_BOOT_ID");
}

__attribute__((constructor)) static void begin(void)
{
	if (shown == NULL)
		see();
}

#define REAL(name) \
	static __typeof__(&name) real; \
	begin(); \
	if (real == NULL) \
		real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int clock_gettime(clockid_t clock, struct timespec *at)
{
	REAL(clock_gettime);
	int said = real(clock, at);

	if (said == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
		int64_t ns = at->tv_sec * BILLION + at->tv_nsec + shown->ahead_ns;

		at->tv_sec = ns / BILLION;
		at->tv_nsec = ns % BILLION;
	}
	return said;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
	struct timespec now;

	(void)zone;
	clock_gettime(CLOCK_REALTIME, &now);
	at->tv_sec = now.tv_sec;
	at->tv_usec = now.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *at)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (at != NULL)
		*at = now.tv_sec;
	return now.tv_sec;
}

int adjtimex(struct timex *about)
{
	REAL(adjtimex);
	int said = real(about);

	if (said < 0 || shown->ahead_ns == 0)
		return said;
	about->status |= STA_UNSYNC;
	return TIME_ERROR;
}

/* A boot of its own, where STEPPED_BOOT_ID names a file with its id. */
int open64(const char *path, int flags, ...)
{
	REAL(open64);
	va_list more;
	mode_t mode;

	va_start(more, flags);
	mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
	va_end(more);
	if (boot_id != NULL && strcmp(path, BOOT_ID) == 0)
		path = boot_id;
	return real(path, flags, mode);
}

int epoll_wait(int fd, struct epoll_event *events, int most, int timeout_ms)
{
	REAL(epoll_wait);
	shown->waits++;
	return real(fd, events, most, timeout_ms);
}

int sem_clockwait(sem_t *of, clockid_t clock, const struct timespec *until)
{
	REAL(sem_clockwait);
	shown->waits++;
	return real(of, clock, until);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *for_, struct timespec *left)
{
	REAL(clock_nanosleep);
	shown->waits++;
	return real(clock, flags, for_, left);
}
