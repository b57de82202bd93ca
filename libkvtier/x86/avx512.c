// SPDX-License-Identifier: MIT
/* AVX-512 F, BW, DQ and VL. */
#include <string.h>

#include "x86/vec_avx512.h"
/* The steps are written in terms of the vectors above. */
#include "x86/steps.h"
#include "x86/decode.h"
#include "x86/cpu.h"

static bool usable(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
	       __builtin_cpu_supports("fma") && has_f16c();
}

const struct kvt_isa kvt_isa_avx512 = {
	.name = "avx512",
	.usable = usable,
	KVT_ISA_STEPS,
	.query_bytes = query_bytes_of,
	.prepare = prepare,
	.score = { [KVT_F32] = score_f32, [KVT_F16] = score_f16, [KVT_BF16] = score_bf16 },
	.add = { [KVT_F32] = add_f32, [KVT_F16] = add_f16, [KVT_BF16] = add_bf16 },
	.few = { [KVT_F32] = UINT32_MAX, [KVT_F16] = 4, [KVT_BF16] = 4 },
};
