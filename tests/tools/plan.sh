#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# kvtier plan: models of known geometry, and headers that are wrong.
set -u
# shellcheck source=tests/tools/setup.sh
. "$(dirname "$0")/setup.sh"

# Little-endian numbers and strings of GGUF.
u32() { printf "\\x$(printf %02x $(($1 & 255)))\\x$(printf %02x $(($1 >> 8 & 255)))\\x$(printf \
	%02x $(($1 >> 16 & 255)))\\x$(printf %02x $(($1 >> 24 & 255)))"; }
u64() { u32 $(($1 & 0xffffffff)) && u32 $(($1 >> 32)); }
string() { u64 ${#1} && printf %s "$1"; }
number() { string "$1" && u32 4 && u32 "$2"; } # KEY VALUE
word() { string "$1" && u32 8 && string "$2"; } # KEY TEXT
head() { u32 0x46554747 && u32 3 && u64 0 && u64 "$1"; } # NUMBER-OF-KEYS

# Llama-3-8B's attention.
llama()
{
	head 6
	word general.architecture llama
	number llama.block_count 32
	number llama.attention.head_count 32
	number llama.attention.head_count_kv 8
	number llama.embedding_length 4096
	number llama.context_length 8192
}

plan()
{
	"$kvtier" plan --json "$@" >"$work/plan.json" || {
		cat "$work/plan.json"
		return 1
	}
}

result()
{
	jq -c "$1" "$work/plan.json"
}

gqa()
{
	llama >"$work/llama.gguf"
	plan --dram 16G --nvme 64G "$work/llama.gguf" || return 1
	expect "bytes a token" "$(result .token_bytes)" 131072 &&
		expect "context in DRAM" "$(result .tiers.dram.context)" 131072 &&
		expect "context in all" "$(result .tiers.nvme.context)" 655360 &&
		expect "trained for" "$(result .trained_context)" 8192
}

types()
{
	plan --keys q8_0 "$work/llama.gguf" && expect "q8_0" "$(result .token_bytes)" 69632 &&
		plan --keys f32 --values q4_0 "$work/llama.gguf" &&
		expect "f32 and q4_0" "$(result .token_bytes)" $((32 * (1024 * 4 + 1024 / 32 * 18)))
}

# DeepSeek: one latent of 512 and 64 of rope, of all heads together.
mla()
{
	{
		head 6
		word general.architecture deepseek2
		number deepseek2.block_count 61
		number deepseek2.attention.head_count 128
		number deepseek2.attention.kv_lora_rank 512
		number deepseek2.rope.dimension_count 64
		number deepseek2.embedding_length 7168
	} >"$work/mla.gguf"
	plan "$work/mla.gguf" && expect "bytes a token" "$(result .token_bytes)" $((61 * 576 * 2))
}

# Layers may differ; those without a head have no cache.
hybrid()
{
	{
		head 5
		word general.architecture jamba
		number jamba.block_count 3
		number jamba.attention.key_length 128
		number jamba.attention.head_count 32
		string jamba.attention.head_count_kv && u32 9 && u32 4 && u64 3 && u32 0 && u32 8 && u32 0
	} >"$work/hybrid.gguf"
	plan "$work/hybrid.gguf" &&
		expect "bytes a token" "$(result '[.token_bytes, .layers]')" "[$((2 * 8 * 128 * 2)),1]"
}

real()
{
	local model=../shared/data/models/stories260K.gguf

	[[ -f $model ]] || { skip "no model here" || return; }
	plan "$model" && expect "bytes a token" "$(result '[.token_bytes, .layers]')" "[640,5]"
}

# wrong TEXT COMMAND...: what COMMAND prints is refused with a line that says TEXT.
wrong()
{
	local text=$1

	shift
	"$@" >"$work/bad.gguf"
	says 1 "$text" plan "$work/bad.gguf"
}

one() { head 1 && "$@"; }
big_endian() { u32 0x46554747 && u32 0x03000000; }
version_9() { u32 0x46554747 && u32 9 && u64 0 && u64 0; }
many_tensors() { u32 0x46554747 && u32 3 && u64 1000000 && u64 0; }
unknown_type() { head 1 && string x && u32 77; }
long_array() { head 1 && string x && u32 9 && u32 4 && u64 1000000000000; }
deep_array() { head 1 && string x && u32 9 && for _ in 1 2 3 4 5 6; do u32 9 && u64 1; done; }
no_layers() { head 2 && word general.architecture llama && number llama.attention.head_count 8; }
float_layers() { head 2 && word general.architecture llama && string llama.block_count && u32 6 &&
	u32 0; }
many_layers() { head 2 && word general.architecture llama && number llama.block_count 99999; }
no_attention() { head 2 && word general.architecture mamba && number mamba.block_count 8; }

bad_headers()
{
	wrong "is not a GGUF file" echo "some text" &&
		wrong "cut off at byte 0" true &&
		wrong "big-endian" big_endian &&
		wrong "version 9 is not known" version_9 &&
		wrong "1000000 tensors" many_tensors &&
		wrong "cut off" head 3 &&
		wrong "unknown type 77" unknown_type &&
		wrong "more than the file has bytes" long_array &&
		wrong "arrays in arrays" deep_array &&
		wrong "does not say general.architecture" one number x 1 &&
		wrong "does not say llama.block_count" no_layers &&
		wrong "block_count is not a whole number" float_layers &&
		wrong "more than 4096" many_layers &&
		wrong "does not say mamba.attention.head_count" no_attention &&
		says 1 "No such file" plan "$work/none.gguf" &&
		says 1 "it is not a file" plan "$work"
}

bad_options()
{
	says 2 "no MODEL" plan &&
		says 2 "unexpected argument 'b'" plan a b &&
		says 2 "there is no type 'q9'" plan --keys q9 x &&
		says 2 "--dram: 'lots' is not a size" plan --dram lots x || return 1
	expect "error as JSON" "$("$kvtier" plan --json "$work/none.gguf" | jq -r 'keys[]')" error
}

ktap_case gqa "grouped queries" gqa
ktap_case types "element types" types
ktap_case mla "latent attention" mla
ktap_case hybrid "layers that differ" hybrid
ktap_case real "a real model" real
ktap_case bad_headers "headers that are wrong" bad_headers
ktap_case bad_options "bad options" bad_options
ktap_end
