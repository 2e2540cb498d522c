// The forward tower after the tokens of a prefix, as a trie, and the cache language model.
// model/decoding/prefix_cache.py and cache_lm.py describe both.
//
// Ownership: a tree owns its nodes, with states and rows; the object in Python owns the tree.
// Whoever has the address of a node keeps that object.

#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

constexpr int kContext = 3;  // tokens of the longest context

extern "C" {

struct CacheLm {
  const int64_t* tokens;    // recent ones, after kContext - 1 that are none, (count,)
  const float* background;  // share of each token in the training text, (V,)
  const int64_t* unique;    // the tokens that count in marginals, (unique_count,)
  const float* raises;      // what their probabilities gain
  int64_t count, unique_count, first_counted, max_occurrences;
  double strength, rarity, discount, other_background;
};

// What Python reads of a node.
struct NodeView {
  const float* state = nullptr;  // (S,)
  const float* probs = nullptr;  // (V,); none if it is not scored
  double kept = 0;  // the share of them that the cache language model keeps; 0 if unknown
  int32_t context[kContext] = {};
  int32_t context_size = 0;
};

}  // extern "C"

// The most probable next tokens, most probable first.
struct Top {
  std::vector<int32_t> tokens;
  std::vector<float> probs;
  double cutoff = 0;  // every allowed token with a higher probability is in the list
  double total = 0;   // probability of all allowed tokens
  bool is_known = false;
};

enum Allowed { kAll, kLetters, kBytes, kAllowedCount };

struct Node : NodeView {
  std::unique_ptr<float[]> own_state, own_probs;
  bool is_unmixed = false;  // the cache language model is known to change nothing here
  Top top[kAllowedCount];
  std::vector<std::pair<int32_t, std::unique_ptr<Node>>> children;

  Node* child(int64_t token) const {
    for (const auto& [own, node] : children)
      if (own == token) return node.get();
    return nullptr;
  }
};

struct Tree {
  Node root;
  int64_t bytes = 0;  // without the state of the root
  int64_t state_size, vocabulary_size;
};

std::unique_ptr<float[]> copy_of(const float* values, int64_t size);

// Set the probabilities (V,) of a node that has none.
void score_node(Tree* tree, Node* node, const float* probs);

// Return the node after a token, which is added unless it is there.
Node* add_node(Tree* tree, Node* node, int32_t token, const float* state, const float* probs);

// Write probabilities (V,) as corrected after a context to `mixed`, unless nothing changes: then
// return false. `kept` is the factor of them that is left.
bool mix(const CacheLm& cache_lm, const float* probs, int64_t size, const int32_t* context,
         int64_t length, float* mixed, double* kept);
