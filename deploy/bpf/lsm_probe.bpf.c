// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Does this kernel load a BPF LSM program at all? It is loaded once by the canary, attached never, and decides nothing.
 * A security module that is listed is not one that works: on one kernel that lists `bpf` and has BTF, this load is EPERM.
 * (The kernel takes LSM programs under a GPL-compatible licence only, hence this file's own.)
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("lsm/bprm_check_security")
int lsm_probe(void *context)
{
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
