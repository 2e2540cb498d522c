// The search as Python calls it; see search.hpp. S is the size of a state, V that of the
// vocabulary.

#include "search.hpp"

// See counts.cpp.
extern "C" int64_t lacuna_counts_probs(const Counts* counts, const int32_t* context, int64_t length,
                                       int64_t count, const int32_t* tokens, float* probs);

namespace {

// Return where the probability of a token comes from. It is a sum of parts (mixture.py), of which
// the cache language model keeps a factor; the rest is its own.
Origins origins_of(Search* search, const Mixture& mixture, const Source& source) {
  Node* node = source.node;
  if (node->kept == 0) search->probs(node);
  const double factor = (search->cache_lm ? node->kept : 1) / std::max(source.prob, 1e-30);
  const float* window = node->state + mixture.window_place;
  int32_t context[kMaxWindow], token = static_cast<int32_t>(source.token);
  int64_t language = -1;
  for (int64_t place = 0; place < mixture.window_size; ++place) {
    context[place] = static_cast<int32_t>(window[place]);
    const int8_t spoken = mixture.languages[context[place]];
    if (spoken >= 0) language = spoken;
  }
  if (language < 0) language = mixture.language_count;
  double shares[kMaxCounts] = {};
  for (int64_t layer = 0; layer < mixture.layers; ++layer) {
    float part;
    const int64_t evidence =
        lacuna_counts_probs(mixture.counts[layer], context, mixture.window_size, 1, &token, &part);
    double weight = mixture.weights[layer][language * mixture.class_count + evidence];
    if (!mixture.has_network && layer == 0) weight = 1;
    shares[0] *= 1 - weight;
    shares[layer] += factor * weight * part;
  }
  // In steps of a ten-thousandth, so that they sum to 1 as they are shown.
  const auto rounded = [](double share) { return std::round(share * 1e4); };
  const double cache = rounded(std::max(0.0, 1 - factor * node->probs[source.token]));
  const double counts = rounded(shares[0]), own = rounded(shares[1]);
  const double network = std::max(0.0, 1e4 - counts - cache - own);
  return {network / 1e4, counts / 1e4, cache / 1e4, own / 1e4};
}

}  // namespace

extern "C" {

// Return a search after the root of a tree, to which it adds nodes. It keeps the addresses of all
// but `text`, which it copies. `cache_lm` may be null.
Search* lacuna_search_new(const Vocabulary* vocabulary, const SearchLimits* limits,
                          const CacheLm* cache_lm, Tree* tree, const SearchText* text) {
  auto* search = new Search(*vocabulary, *limits, cache_lm, tree, *text);
  search->task = search->spell();
  return search;
}

// `search` may be null, or wait for rows.
void lacuna_search_free(Search* search) { delete search; }

// Go on until rows are needed, and return their number; -1 if only the root is to be scored; 0 at
// the end of the spelling, and later of the search for words. After an answer that is not 0, the
// caller sets what is needed and calls again.
int64_t lacuna_search_advance(Search* search) {
  search->wants.clear();
  while (!search->task.resume()) {
    if (search->is_spelled || search->left_over) return 0;
    search->is_spelled = true;
    search->task = search->follow();
  }
  const auto count = static_cast<int64_t>(search->wants.size());
  return search->wants[0].token < 0 ? -1 : count;
}

// Write the states (N, S) and the tokens (N,) of the N wanted rows, as advance returned it.
void lacuna_search_rows(const Search* search, float* states, int64_t* tokens) {
  const auto size = static_cast<size_t>(search->tree->state_size);
  for (const Want& want : search->wants) {
    std::memcpy(states, want.node->state, size * sizeof(float));
    states += size;
    *tokens++ = want.token;
  }
}

// Add the nodes of the N wanted rows: states (N, S) after the tokens, and probabilities (N, V).
void lacuna_search_put(Search* search, const float* states, const float* probs) {
  Tree* tree = search->tree;
  for (const Want& want : search->wants) {
    add_node(tree, want.node, static_cast<int32_t>(want.token), states, probs);
    states += tree->state_size;
    probs += tree->vocabulary_size;
  }
}

// Write the spellings, most probable first, to `spellings` (max_nodes + 1,); return their number.
int64_t lacuna_search_spellings(const Search* search, SpellingView* spellings) {
  for (const Spelling& each : search->spellings) {
    *spellings++ = {each.rest, each.prob, each.total, each.node};
  }
  return static_cast<int64_t>(search->spellings.size());
}

// Write the figures of a search.
void lacuna_search_read(const Search* search, SearchView* view) {
  *view = {search->total,
           search->cutoff,
           static_cast<int64_t>(search->found.size()),
           search->nodes,
           search->network_rows,
           search->cached_tokens,
           search->left_over,
           static_cast<int64_t>(search->mixed.size())};
}

// Begin the search for words; q has the probability `all`.
void lacuna_search_find_words(Search* search, double all, int64_t skips_letters) {
  search->skips_letters = skips_letters;
  search->task = search->find_words(all);
}

// Take further next tokens above a cutoff, at most `limit` of each branch.
void lacuna_search_take_tail(Search* search, double above, int64_t limit) {
  search->take_tail(above, limit);
}

// Write the most probable candidates above a probability, falling, ties by text, to `found`
// (*count,), and their number to `count`. Return their characters, one after another, which the
// search keeps until the next call.
const char32_t* lacuna_search_found(Search* search, const Mixture* mixture, double above,
                                    FoundView* found, int64_t* count) {
  std::vector<const Found*> ranked;
  for (const Found& each : search->found) {
    if (each.prob > above) ranked.push_back(&each);
  }
  std::sort(ranked.begin(), ranked.end(), [](const Found* one, const Found* other) {
    return one->prob > other->prob || (one->prob == other->prob && one->text < other->text);
  });
  if (*count < static_cast<int64_t>(ranked.size())) ranked.resize(static_cast<size_t>(*count));
  search->texts.clear();
  for (const Found* each : ranked) {
    search->texts += each->text;
    *found++ = {each->prob, each->spaced / each->prob, static_cast<double>(each->source.covered),
                static_cast<double>(search->texts.size()),
                origins_of(search, *mixture, each->source)};
  }
  *count = static_cast<int64_t>(ranked.size());
  return search->texts.data();
}

// Write where the probabilities of tokens come from: `sources` (count,), `origins` (count,). The
// nodes are scored ones of the tree.
void lacuna_search_origins(Search* search, const Mixture* mixture, int64_t count,
                           const SourceView* sources, Origins* origins) {
  for (int64_t n = 0; n < count; ++n) {
    const Source source{sources[n].node, sources[n].token, sources[n].prob, 0};
    origins[n] = origins_of(search, *mixture, source);
  }
}

}  // extern "C"
