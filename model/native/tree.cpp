// Trees of prefixes, and the cache language model; see tree.hpp.

#include "tree.hpp"

#include <algorithm>
#include <cstring>

namespace {

// A token that followed, after the longest context that did, and how often after each length.
struct Follower {
  int64_t token;
  double prob;
  int64_t counts[kContext];
};

// Count what followed the last one, two and three tokens of a context.
std::vector<Follower> find_followers(const CacheLm& cache_lm, const int32_t* context,
                                     int64_t length) {
  std::vector<Follower> found;
  const int64_t* tokens = cache_lm.tokens;
  int64_t left = cache_lm.max_occurrences;
  for (int64_t place = cache_lm.count - 2; length > 0 && left > 0 && place >= kContext - 1;
       --place) {
    if (tokens[place] != context[length - 1]) continue;
    --left;
    const int64_t token = tokens[place + 1];
    if (token < cache_lm.first_counted) continue;
    auto own = std::find_if(found.begin(), found.end(),
                            [&](const Follower& each) { return each.token == token; });
    if (own == found.end()) own = found.insert(own, Follower{token, 0, {}});
    for (int64_t n = 0; n < std::min<int64_t>(kContext, length); ++n) {
      if (tokens[place - n] != context[length - 1 - n]) break;
      ++own->counts[n];
    }
  }
  return found;
}

// Set what contexts add to each token that followed; return the share that they leave.
double weigh_followers(const CacheLm& cache_lm, const int32_t* context, int64_t length,
                       std::vector<Follower>* found) {
  double kept = 1, strength = cache_lm.strength;
  for (int64_t n = 0; n < std::min<int64_t>(kContext, length); ++n) {
    int64_t occurred = 0, different = 0;
    for (const Follower& each : *found) {
      occurred += each.counts[n];
      different += each.counts[n] > 0;
    }
    if (occurred == 0) break;
    const double background = cache_lm.background[context[length - 1 - n]];
    strength *= std::pow(background > 0 ? background : cache_lm.other_background, cache_lm.rarity);
    const double total = static_cast<double>(occurred) + strength;
    const double share = (strength + cache_lm.discount * static_cast<double>(different)) / total;
    kept *= share;
    for (Follower& each : *found) {
      each.prob *= share;
      if (each.counts[n])
        each.prob += (static_cast<double>(each.counts[n]) - cache_lm.discount) / total;
    }
  }
  return kept;
}

}  // namespace

std::unique_ptr<float[]> copy_of(const float* values, int64_t size) {
  std::unique_ptr<float[]> copy(new float[static_cast<size_t>(size)]);
  std::memcpy(copy.get(), values, static_cast<size_t>(size) * sizeof(float));
  return copy;
}

void score_node(Tree* tree, Node* node, const float* probs) {
  if (node->probs) return;
  node->own_probs = copy_of(probs, tree->vocabulary_size);
  node->probs = node->own_probs.get();
  tree->bytes += tree->vocabulary_size * static_cast<int64_t>(sizeof(float));
}

Node* add_node(Tree* tree, Node* node, int32_t token, const float* state, const float* probs) {
  if (Node* known = node->child(token)) return known;
  auto added = std::make_unique<Node>();
  added->own_state = copy_of(state, tree->state_size);
  added->state = added->own_state.get();
  const int32_t kept = std::min(node->context_size, kContext - 1);
  std::copy_n(node->context + node->context_size - kept, kept, added->context);
  added->context[kept] = token;
  added->context_size = kept + 1;
  tree->bytes += tree->state_size * static_cast<int64_t>(sizeof(float));
  tree->bytes += static_cast<int64_t>(sizeof(Node));
  score_node(tree, added.get(), probs);
  node->children.emplace_back(token, std::move(added));
  return node->children.back().second.get();
}

bool mix(const CacheLm& cache_lm, const float* probs, int64_t size, const int32_t* context,
         int64_t length, float* mixed, double* kept) {
  std::vector<Follower> found = find_followers(cache_lm, context, length);
  *kept = weigh_followers(cache_lm, context, length, &found);
  if (found.empty() && cache_lm.unique_count == 0) return false;
  double added = 0;
  for (int64_t n = 0; n < cache_lm.unique_count; ++n) {
    added += probs[cache_lm.unique[n]] * cache_lm.raises[n];
  }
  *kept /= 1 + added;
  const auto scale = static_cast<float>(*kept);
  for (int64_t n = 0; n < size; ++n) mixed[n] = probs[n] * scale;
  for (int64_t n = 0; n < cache_lm.unique_count; ++n) {
    const float known = probs[cache_lm.unique[n]];
    mixed[cache_lm.unique[n]] = (known + known * cache_lm.raises[n]) * scale;
  }
  for (const Follower& each : found) mixed[each.token] += static_cast<float>(each.prob);
  return true;
}

extern "C" {

// Return a tree with only a root, after `length` tokens of `context`. It may have no `probs`.
Tree* lacuna_tree_new(int64_t state_size, int64_t vocabulary_size, const float* state,
                      const int32_t* context, int64_t length, const float* probs) {
  auto* tree = new Tree{};
  tree->state_size = state_size;
  tree->vocabulary_size = vocabulary_size;
  tree->root.own_state = copy_of(state, state_size);
  tree->root.state = tree->root.own_state.get();
  tree->root.context_size = static_cast<int32_t>(std::min<int64_t>(length, kContext));
  std::copy_n(context + length - tree->root.context_size, tree->root.context_size,
              tree->root.context);
  if (probs) score_node(tree, &tree->root, probs);
  return tree;
}

void lacuna_tree_free(Tree* tree) { delete tree; }

int64_t lacuna_tree_bytes(const Tree* tree) { return tree->bytes; }

Node* lacuna_tree_root(Tree* tree) { return &tree->root; }

Node* lacuna_node_child(const Node* node, int64_t token) { return node->child(token); }

Node* lacuna_node_add(Tree* tree, Node* node, int64_t token, const float* state,
                      const float* probs) {
  return add_node(tree, node, static_cast<int32_t>(token), state, probs);
}

void lacuna_node_score(Tree* tree, Node* node, const float* probs) {
  score_node(tree, node, probs);
}

// See mix.
int64_t lacuna_cache_lm_mix(const CacheLm* cache_lm, const float* probs, int64_t size,
                            const int32_t* context, int64_t length, float* mixed, double* kept) {
  return mix(*cache_lm, probs, size, context, length, mixed, kept);
}

// Write the tokens that the contexts add to, and what; return their number, at most
// max_occurrences.
int64_t lacuna_cache_lm_followers(const CacheLm* cache_lm, const int32_t* context, int64_t length,
                                  int64_t* tokens, double* probs, double* kept) {
  std::vector<Follower> found = find_followers(*cache_lm, context, length);
  *kept = weigh_followers(*cache_lm, context, length, &found);
  for (size_t n = 0; n < found.size(); ++n) {
    tokens[n] = found[n].token;
    probs[n] = found[n].prob;
  }
  return static_cast<int64_t>(found.size());
}

}  // extern "C"
