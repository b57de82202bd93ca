/* SPDX-License-Identifier: MIT */
/* What a GGUF file's header says of the model's attention. */
#ifndef KVT_GGUF_H
#define KVT_GGUF_H

#include <stddef.h>
#include <stdint.h>

#define GGUF_LAYERS_MAX 4096

struct gguf_model {
	char architecture[64];
	char name[128];
	uint32_t layers;
	uint32_t heads;
	uint32_t kv_heads[GGUF_LAYERS_MAX]; /* of each layer; 0: a layer without a cache */
	uint32_t key_length; /* elements of one head's key */
	uint32_t value_length;
	uint32_t latent; /* MLA: elements of the latent and the rope part; 0: not MLA */
	uint32_t window; /* sliding window in tokens; 0: none */
	uint64_t context; /* trained for; 0: not said */
};

/* 0, or -EINVAL (or what reading failed with) and what is wrong in @why. */
int gguf_read(const char *path, struct gguf_model *model, char *why, size_t len);

#endif
