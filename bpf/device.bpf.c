// Which devices the processes of sandboxes may open. Nobody makes device nodes.

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "abi.h"
#include "maps.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

// null, zero, full, random and urandom.
static __always_inline bool is_default(__u32 type, __u32 major, __u32 minor)
{
	if (type != BPF_DEVCG_DEV_CHAR || major != 1)
		return false;
	return minor == 3 || minor == 5 || minor == 7 || minor == 8 || minor == 9;
}

SEC("cgroup/dev")
int on_device(struct bpf_cgroup_dev_ctx *ctx)
{
	__u32 type = ctx->access_type & 0xffff;
	__u32 access = ctx->access_type >> 16;
	__u64 id = bpf_get_current_cgroup_id();
	struct sandbox *sandbox = sandbox_by_id(id);
	if (!sandbox && !stranger_denied(id))
		return 1;
	if (access & ~(BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE))
		return 0;
	if (is_default(type, ctx->major, ctx->minor))
		return 1;
	if (!sandbox)
		return 0;
	__u32 function = sandbox->function;
	struct policy *policy = bpf_map_lookup_elem(&policies, &function);
	if (!policy)
		return 0;
	struct device_key key = { .list = (__u32)policy->list, .type = type, .major = ctx->major, .minor = ctx->minor };
	__u32 *allowed = bpf_map_lookup_elem(&devices, &key);
	return allowed && !(access & ~*allowed);
}
