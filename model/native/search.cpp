// Spell the unfinished end of a text in tokens, and look at distributions; see search.hpp.

#include "search.hpp"

namespace {

constexpr int64_t kBlock = 64, kLanes = 16;

// The largest probability of each block of a row, of the tokens that a mask allows, and their sum.
struct Scan {
  std::vector<float> largest;
  double total = 0;
};

// Add a block of `size` items, which may be a constant.
inline void scan_block(const float* row, const uint8_t* mask, int64_t size, Scan* found) {
  float most[kLanes] = {}, sums[kLanes] = {};
  for (int64_t start = 0; start < size; start += kLanes) {
    const int64_t count = std::min(kLanes, size - start);
    for (int64_t n = 0; n < count; ++n) {
      const float value = mask ? row[start + n] * mask[start + n] : row[start + n];
      most[n] = value > most[n] ? value : most[n];
      if (mask) sums[n] += value;
    }
  }
  found->largest.push_back(*std::max_element(most, most + kLanes));
  for (const float sum : sums) found->total += sum;
}

// `mask` has a byte of 1 for each allowed token; none allows all, and then no sum is made.
Scan scan(const float* row, const uint8_t* mask, int64_t size) {
  Scan found;
  found.largest.reserve(static_cast<size_t>(size / kBlock + 1));
  int64_t begin = 0;
  for (; begin + kBlock <= size; begin += kBlock) {
    mask ? scan_block(row + begin, mask + begin, kBlock, &found)
         : scan_block(row + begin, nullptr, kBlock, &found);
  }
  if (begin < size) scan_block(row + begin, mask ? mask + begin : nullptr, size - begin, &found);
  return found;
}

// List the allowed tokens with a probability above `cutoff`.
std::vector<int32_t> find_above(const Scan& scanned, const float* row, const uint8_t* mask,
                                int64_t size, float cutoff) {
  std::vector<int32_t> found;
  for (size_t block = 0; block < scanned.largest.size(); ++block) {
    if (!(scanned.largest[block] > cutoff)) continue;
    const int64_t begin = static_cast<int64_t>(block) * kBlock;
    for (int64_t n = begin; n < std::min(size, begin + kBlock); ++n) {
      if (row[n] > cutoff && (!mask || mask[n])) found.push_back(static_cast<int32_t>(n));
    }
  }
  return found;
}

// Return a probability that at least `count` tokens exceed; 0 if there may be fewer.
float exceeded_by(std::vector<float> largest, int64_t count) {
  if (static_cast<int64_t>(largest.size()) < count) return 0;
  const auto place = largest.begin() + count - 1;
  std::nth_element(largest.begin(), place, largest.end(), std::greater<>());
  return std::nextafter(*place, 0.0f);
}

}  // namespace

Search::Search(const Vocabulary& vocabulary_, const SearchLimits& limits_, const CacheLm* cache_lm_,
               Tree* tree_, const SearchText& text_)
    : vocabulary(vocabulary_),
      limits(limits_),
      cache_lm(cache_lm_),
      tree(tree_),
      between(text_.between, text_.between + text_.between_size),
      canonical(text_.canonical, text_.canonical + text_.canonical_size),
      typed(text_.typed, static_cast<size_t>(text_.typed_size)),
      stem(text_.stem, static_cast<size_t>(text_.stem_size)),
      before(text_.before, static_cast<size_t>(text_.before_size)),
      text(text_) {}

void Search::want(Node* node, int64_t token) {
  ++nodes;
  if (token < 0 ? node->probs != nullptr : node->child(token) != nullptr) return;
  network_rows += token < 0 ? 1 : 2;
  wants.push_back({node, token});
}

const float* Search::probs(Node* node) {
  if (!cache_lm || node->is_unmixed) return node->probs;
  for (const auto& [own, row] : mixed)
    if (own == node) return row.get();
  const int64_t size = vocabulary.size;
  std::unique_ptr<float[]> row(new float[static_cast<size_t>(size)]);
  node->is_unmixed =
      !mix(*cache_lm, node->probs, size, node->context, node->context_size, row.get(), &node->kept);
  if (node->is_unmixed) return node->probs;
  if (static_cast<int64_t>(mixed.size()) == limits.max_mixed) mixed.clear();
  mixed.emplace_back(node, std::move(row));
  return mixed.back().second.get();
}

// Return the most probable allowed tokens: at least `count`, or all above a cutoff.
const Top& Search::top(Node* node, Allowed allowed, double above, int64_t count) {
  Top& top = node->top[allowed];
  const auto size = static_cast<int64_t>(top.tokens.size());
  if (top.is_known && !(above < top.cutoff && size < count)) return top;
  above *= 0.999;  // rounding must not decide about a token at the cutoff
  const uint8_t* masks[] = {nullptr, vocabulary.starts_letter, vocabulary.is_byte};
  const uint8_t* mask = masks[allowed];
  const float* row = probs(node);
  const Scan scanned = scan(row, mask, vocabulary.size);
  top.is_known = true;
  top.total = mask ? scanned.total : 1;
  tree->bytes -= 8 * size;
  std::vector<int32_t>& tokens = top.tokens;
  if (above < limits.high_cutoff) {
    count = std::max(count, limits.top_tokens);
    const float cutoff = exceeded_by(scanned.largest, count);
    tokens = find_above(scanned, row, mask, vocabulary.size, cutoff);
    keep_largest(row, count, &tokens);
    top.cutoff = static_cast<int64_t>(tokens.size()) == count ? row[tokens.back()] : 0;
  } else {  // few tokens exceed it
    tokens = find_above(scanned, row, mask, vocabulary.size, static_cast<float>(above));
    keep_largest(row, vocabulary.size, &tokens);
    top.cutoff = above;
  }
  top.probs.clear();
  for (const int32_t token : tokens) top.probs.push_back(row[token]);
  tree->bytes += 8 * static_cast<int64_t>(tokens.size());
  return top;
}

void Search::add_spelling(int64_t rest, double prob, Node* node) {
  Spelling added{rest, prob, node, prob, {}, {}, {}};
  if (rest > 0) {
    const std::string_view left =
        std::string_view(typed).substr(typed.size() - static_cast<size_t>(rest));
    const float* row = probs(node);
    added.crossing = spell_on(vocabulary, left, [&](int64_t token) {
      added.next.push_back(static_cast<int32_t>(token));
    });
    double sum = 0;
    for (int64_t n = added.crossing.begin; n < added.crossing.end; ++n) {
      added.probs.push_back(row[vocabulary.sorted[n]]);
      sum += added.probs.back();
    }
    added.total = prob * sum;
  }
  total += added.total;
  spellings.push_back(std::move(added));
}

// List the tokens that spell more of q, but one that is followed already.
void Search::add_paths(size_t spelling, int64_t followed) {
  const Spelling& own = spellings[spelling];
  if (own.next.empty()) return;
  const float* row = probs(own.node);
  for (const int32_t token : own.next) {
    if (token != followed) paths.push_back({own.prob * row[token], spelling, token});
  }
}

int64_t size_of(const Vocabulary& vocabulary, int64_t token) {
  return static_cast<int64_t>(spelling_of(vocabulary, token).size());
}

// Read the tokens before the cut; if no token begins with q, follow its own encoding, too.
Task Search::spell() {
  Node* node = &tree->root;
  if (between.empty()) {
    want(node, -1);
    co_await Rows{wants};
  }
  for (const int32_t token : between) {
    cached_tokens += node->child(token) != nullptr;
    want(node, token);
    co_await Rows{wants};
    node = node->child(token);
  }
  add_spelling(static_cast<int64_t>(typed.size()), 1, node);
  const bool is_begun = total > 0;
  for (size_t n = 0; !is_begun && n < canonical.size(); ++n) {
    const int64_t token = canonical[n];
    const int64_t rest = spellings.back().rest - size_of(vocabulary, token);
    node = spellings.back().node;
    if (room() == 0) {
      left_over = static_cast<int64_t>(canonical.size() - n);
      co_return;
    }
    cached_tokens += node->child(token) != nullptr;
    const double prob = spellings.back().prob * probs(node)[token];
    want(node, token);
    co_await Rows{wants};
    add_spelling(rest, prob, node->child(token));
  }
}

// Follow the spellings with a share of Z. The probability of a path bounds what it can add to Z.
Task Search::follow() {
  const size_t followed = spellings.size();
  for (size_t n = 0; n < followed; ++n) add_paths(n, n + 1 < followed ? canonical[n] : -1);
  for (int64_t round = 0; round < limits.spelling_rounds; ++round) {
    std::erase_if(
        paths, [this](const Path& path) { return !(path.prob > limits.spelling_share * total); });
    std::stable_sort(paths.begin(), paths.end(),
                     [](const Path& one, const Path& other) { return one.prob > other.prob; });
    const auto rows =
        std::min(static_cast<int64_t>(paths.size()), std::min(limits.spelling_rows, room()));
    if (rows == 0) break;
    const std::vector<Path> chosen(paths.begin(), paths.begin() + rows);
    paths.erase(paths.begin(), paths.begin() + rows);
    for (const Path& path : chosen) want(spellings[path.spelling].node, path.token);
    co_await Rows{wants};
    for (const Path& path : chosen) {
      const Spelling& before = spellings[path.spelling];
      const int64_t rest = before.rest - size_of(vocabulary, path.token);
      add_spelling(rest, path.prob, before.node->child(path.token));
      add_paths(spellings.size() - 1, -1);
    }
  }
  if (!(total > 0)) {  // underflow: all that can be said is what follows the encoding of q
    Spelling certain{0, 1, spellings[canonical.size()].node, 1, {}, {}, {}};
    spellings.clear();
    spellings.push_back(std::move(certain));
  }
  std::stable_sort(
      spellings.begin(), spellings.end(),
      [](const Spelling& one, const Spelling& other) { return one.prob > other.prob; });
}
