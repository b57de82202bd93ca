/* SPDX-License-Identifier: MIT */
/*
 * The engine: an unmodified build of llama.cpp, loaded at run time.
 *
 * Nothing of llama.cpp is linked in, so the same program drives the pinned
 * build and any other of the same version, as a user's program would.
 */
#ifndef DEMO_ENGINE_H
#define DEMO_ENGINE_H

#include <llama.h>

#define GGML_CALLS(X) \
	X(ggml_backend_dev_count) \
	X(ggml_backend_load) \
	X(ggml_backend_load_all_from_path)

#define LLAMA_CALLS(X) \
	X(llama_backend_init) \
	X(llama_batch_get_one) \
	X(llama_context_default_params) \
	X(llama_decode) \
	X(llama_free) \
	X(llama_get_logits_ith) \
	X(llama_init_from_model) \
	X(llama_log_set) \
	X(llama_model_default_params) \
	X(llama_model_free) \
	X(llama_model_get_vocab) \
	X(llama_model_load_from_file) \
	X(llama_n_ctx) \
	X(llama_state_seq_load_file) \
	X(llama_state_seq_save_file) \
	X(llama_token_to_piece) \
	X(llama_tokenize) \
	X(llama_version) \
	X(llama_vocab_bos) \
	X(llama_vocab_get_attr) \
	X(llama_vocab_is_eog) \
	X(llama_vocab_n_tokens)

#define ENGINE_CALL(name) __typeof__(name) *name;

struct engine {
	GGML_CALLS(ENGINE_CALL)
	LLAMA_CALLS(ENGINE_CALL)
	char cpu[64]; /* the variant of the CPU backend that was loaded */
};

/*
 * Load the engine in @dir with its best CPU backend, or with the one named
 * @cpu; its messages go to @log.  Ends the program with one line when that
 * cannot be done.
 */
void engine_load(struct engine *e, const char *dir, const char *cpu, ggml_log_callback log,
		 void *log_data);

#endif
