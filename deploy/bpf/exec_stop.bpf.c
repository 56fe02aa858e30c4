// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Tier T2: stop a program before its first instruction, tell user space, and let user space decide.
 *
 * Runs at the tracepoint sched:sched_process_exec, in the context of the task whose execve(2) has just succeeded and which has not
 * yet returned to user space: a SIGSTOP sent here is acted on before the new image executes anything. It is attached as a raw
 * tracepoint (no tracefs has to be mounted) and reads nothing of the kernel's structures: no BTF, no CO-RE, one object for every
 * kernel with CONFIG_BPF_EVENTS. What the program is, user space finds out from /proc/PID/exe while the task stands still.
 *
 * In this order, for each exec:
 *
 *   1. the heartbeat is older than STALE_NS: nobody is stopped (counted). A responder that died, hangs or was stopped must not
 *      take the machine with it;
 *   2. the task is named in `tasks`: what is said there (the canary's own children, and who is exempt);
 *   3. a cgroup is set and the task is not below it: nothing;
 *   4. its uid is named in `users`: what is said there; else what `otherwise` says;
 *   5. STOP without room in the ring is KILL: an answer for want of room must not be a way in.
 *
 * SIGKILL cannot be taken back by anybody; SIGSTOP can, by whoever may signal the task (the same uid). A SIGCONT that is not the
 * responder's reaches it as an event of its own, `RESUMED`.
 *
 * Built by build.sh; the object is in agent/edgewarden/kernel/bpf_objects.py.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define STALE_NS 1000000000ULL
#define SIGKILL 9 /* <asm-generic/signal.h>: the same on every architecture of ours */
#define SIGCONT 18
#define SIGSTOP 19
#define RING_BYTES (256 << 10) /* 4096 events; the kernel adds 8 bytes to each */
#define HELD_TASKS 16384

enum { PASS, STOP, KILL };             /* what is done with a task */
enum { STOPPED, KILLED, RESUMED };     /* what is told */
enum { N_STOPPED, N_KILLED, N_STALE, N_NO_ROOM, N_RESUMED, N_COUNTERS };

struct settings {
	__u64 beat_ns;      /* CLOCK_MONOTONIC of the responder's last word */
	__u64 cgroup;       /* id (inode) of a cgroup v2, 0: the whole host */
	__u32 level;        /* its depth below the root of the hierarchy */
	__u32 otherwise;    /* for a uid that is not in `users` */
	__u32 responder;    /* its tgid: its SIGCONT is no RESUMED */
	__u32 unused;
};

struct event {
	__u64 mono_ns;
	__u32 kind;
	__u32 tgid;         /* whose exec it is */
	__u32 uid;          /* its uid; for RESUMED the sender's */
	__u32 sender;       /* RESUMED: who sent the SIGCONT */
	char name[16];      /* comm; for RESUMED the sender's */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} tasks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} users SEC(".maps");

/* Who stands still by our doing: the task's address (an opaque number here) -> tgid. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, HELD_TASKS);
	__type(key, __u64);
	__type(value, __u32);
} held SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, N_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} events SEC(".maps");

static __always_inline void count(__u32 which)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &which);
	if (counter)
		__sync_fetch_and_add(counter, 1);
}

static __always_inline __u32 wanted(const struct settings *set, __u32 tgid, __u32 uid)
{
	__u32 *found = bpf_map_lookup_elem(&tasks, &tgid);
	if (found)
		return *found;
	if (set->cgroup && bpf_get_current_ancestor_cgroup_id(set->level) != set->cgroup)
		return PASS;
	found = bpf_map_lookup_elem(&users, &uid);
	return found ? *found : set->otherwise;
}

static __always_inline void fill(struct event *event, __u32 kind, __u32 tgid, __u32 uid)
{
	event->mono_ns = bpf_ktime_get_ns();
	event->kind = kind;
	event->tgid = tgid;
	event->uid = uid;
	event->sender = 0;
	bpf_get_current_comm(event->name, sizeof(event->name));
}

SEC("raw_tp/sched_process_exec")
int exec_stop(void *context)
{
	__u32 zero = 0, tgid = bpf_get_current_pid_tgid() >> 32, uid = bpf_get_current_uid_gid();
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	if (!set)
		return 0;
	__u32 action = wanted(set, tgid, uid);
	if (action == PASS)
		return 0;
	if (bpf_ktime_get_ns() - set->beat_ns > STALE_NS) {
		count(N_STALE);
		return 0;
	}
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		count(N_NO_ROOM);
		bpf_send_signal(SIGKILL);
		return 0;
	}
	if (action == KILL) {
		fill(event, KILLED, tgid, uid);
		count(N_KILLED);
		bpf_send_signal(SIGKILL);
	} else {
		fill(event, STOPPED, tgid, uid);
		__u64 task = bpf_get_current_task();
		bpf_map_update_elem(&held, &task, &tgid, BPF_ANY);
		count(N_STOPPED);
		bpf_send_signal(SIGSTOP);
	}
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* TP_PROTO(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result), <trace/events/signal.h> */
SEC("raw_tp/signal_generate")
int exec_resumed(struct bpf_raw_tracepoint_args *context)
{
	__u32 zero = 0, sender = bpf_get_current_pid_tgid() >> 32;
	__u64 task = context->args[2];
	__u32 signal = context->args[0];
	if (signal != SIGCONT && signal != SIGKILL)
		return 0;
	__u32 *tgid = bpf_map_lookup_elem(&held, &task);
	if (!tgid)
		return 0;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	__u32 whose = *tgid;
	bpf_map_delete_elem(&held, &task);
	if (!set || sender == set->responder || signal != SIGCONT)
		return 0;
	count(N_RESUMED);
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0;
	fill(event, RESUMED, whose, bpf_get_current_uid_gid());
	event->sender = sender;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* The kernel gives bpf_get_current_task() to GPL-compatible programs only, hence this file's own licence. */
char LICENSE[] SEC("license") = "Dual MIT/GPL";
