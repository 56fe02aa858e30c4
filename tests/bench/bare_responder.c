/* The least that an exec permission event costs whatever answers it: bare_responder.py in C.
 *
 *     bare_responder FILESYSTEM READY-FILE
 *
 * Allows everything at once, judges nothing; gate's priority. It ends on TERM, with its parent, or after
 * LIFE_S; the kernel allows whatever waits then.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/fanotify.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LIFE_S = 120, NICE = -15 };

static void need(int holds, const char *what)
{
    if (!holds) {
        perror(what);
        exit(1);
    }
}

int main(int count, char **words)
{
    struct stat watched, root;
    union {
        struct fanotify_event_metadata first;
        char room[4096];
    } events;

    need(count == 3, "usage: bare_responder FILESYSTEM READY-FILE");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(LIFE_S);
    need(!stat(words[1], &watched) && !stat("/", &root), "stat");
    need(watched.st_dev != root.st_dev, "not a filesystem of its own");
    need(!setpriority(PRIO_PROCESS, 0, NICE), "setpriority");
    int group = fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, O_RDONLY | O_CLOEXEC | O_LARGEFILE);
    need(group >= 0, "fanotify_init");
    need(!fanotify_mark(group, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN_EXEC_PERM, AT_FDCWD, words[1]),
         "fanotify_mark");
    int ready = open(words[2], O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    need(ready >= 0, "ready file");
    close(ready);
    for (;;) {
        ssize_t left = read(group, &events, sizeof events);
        need(left > 0, "read");
        struct fanotify_event_metadata *event = &events.first;
        for (; FAN_EVENT_OK(event, left); event = FAN_EVENT_NEXT(event, left)) {
            struct fanotify_response answer = {.fd = event->fd, .response = FAN_ALLOW};
            need(write(group, &answer, sizeof answer) == sizeof answer, "answer");
            close(event->fd);
        }
    }
}
