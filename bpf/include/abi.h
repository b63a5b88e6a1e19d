/* What the BPF programs and their Rust loaders share. src/abi.rs mirrors it; the loader checks the sizes. */
#ifndef MILLRACE_ABI_H
#define MILLRACE_ABI_H

/* Worker cores that can be watched at once: call::Limits::cores_max by default. */
#define RUNQ_CORES_MAX 256
/* Threads of all watched cores: a core has one that works and a few that help. */
#define RUNQ_THREADS_MAX 4096
/* Buckets of the histogram of run-queue delays: bucket b counts delays of 2^b ns to below 2^(b+1) ns, the first
 * one also 0 ns, the last one also all longer ones: 2^39 ns are nine minutes. */
#define RUNQ_BUCKETS 40

/* What one worker core did, on one CPU. All counters count since it is watched. */
struct runq_core {
	/* On a CPU, finished slices only, ns. */
	__u64 cpu_ns;
	/* How often one of its threads left a CPU. */
	__u64 switches;
	/* How long its threads waited for a CPU, each time they could have run. */
	__u64 delay[RUNQ_BUCKETS];
};

/* Where one thread stands. Times are CLOCK_MONOTONIC, ns; zero if it does not hold. */
struct runq_thread {
	/* Its worker core. */
	__u32 tgid;
	__u32 unused;
	/* Since when it is on a CPU. */
	__u64 running_since;
	/* Since when it could run and waits for a CPU. */
	__u64 waiting_since;
};

#endif
