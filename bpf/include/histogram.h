/* Histograms by powers of two. */
#ifndef MILLRACE_HISTOGRAM_H
#define MILLRACE_HISTOGRAM_H

/* The bucket of RUNQ_BUCKETS that counts this delay. */
static __always_inline __u32 bucket_of(__u64 ns)
{
	__u32 bucket = 0;
	for (int width = 32; width > 0; width /= 2) {
		if (ns >> width) {
			ns >>= width;
			bucket += width;
		}
	}
	return bucket < RUNQ_BUCKETS ? bucket : RUNQ_BUCKETS - 1;
}

#endif
