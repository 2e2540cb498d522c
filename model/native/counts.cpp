// Probabilities of the next token by counts. model/counts.py describes the arrays and the formula.
//
// Ownership: the caller owns all memory, and keeps it until a call returns. Nothing is allocated
// here. Only `totals` and the outputs are written. Calls must not overlap: Python holds its lock.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>

namespace {

constexpr int kMaxOrders = 4;                           // of contexts
constexpr int kClasses = 6;                             // of backoff weights
constexpr double kEdges[] = {0.1, 0.2, 0.4, 0.6, 0.8};  // between them
constexpr int64_t kBlock = 512;     // bits of the bitmap that share a count of contexts before them
constexpr int64_t kMany = 256;      // followers of a context whose total is kept
constexpr uint64_t kTotals = 1024;  // slots for them

}  // namespace

extern "C" {

struct Total {
  uint32_t context;  // its number + 1; 0 in an empty slot
  float value;       // sum of the shares of its followers
};

// The contexts of one order, and the n-grams that begin with them.
struct Order {
  const uint8_t* flags;     // bitmap: an n-gram of this order is a context
  const uint32_t* before;   // contexts before each block of the bitmap
  const uint32_t* pages;    // contexts whose first follower has a rank < 256 i
  const uint8_t* first;     // rank of the first follower, low 8 bits
  const uint8_t* backoffs;  // codes
  const uint16_t* tokens;   // last tokens of the n-grams
  const uint8_t* shares;    // codes
  Total* totals;            // (kTotals,)
  int64_t page_count, contexts, ngrams;
};

struct Counts {
  const Order* orders;
  const float* unigram;    // (vocabulary_size,)
  const float* shares;     // by code, (256,)
  const double* backoffs;  // by code, (256,)
  int64_t order_count, vocabulary_size;
};

}  // extern "C"

namespace {

// A context: its number, and the range of the ranks of its followers. Empty if it is unknown.
struct Context {
  int64_t number = 0, begin = 0, end = 0;
  explicit operator bool() const { return begin < end; }
};

// The known contexts at the end of a text, longest first.
struct Known {
  struct Item {
    int64_t order;
    Context context;
  };
  Item items[kMaxOrders];
  int64_t size = 0;

  void add(int64_t order, Context context) {
    if (context) items[size++] = {order, context};
  }
  const Item* begin() const { return items; }
  const Item* end() const { return items + size; }
};

// Return the context of a number.
Context context_at(const Order& order, int64_t number) {
  const uint32_t* last = order.pages + order.page_count;
  const uint32_t* page = std::upper_bound(order.pages, last, number);  // after its own
  const auto rank_of = [&](int64_t each) {
    return (page - order.pages - 1) << 8 | order.first[each];
  };
  const int64_t begin = rank_of(number), next = number + 1;
  if (next == order.contexts) return {number, begin, order.ngrams};
  while (page < last && *page <= next) ++page;
  return {number, begin, rank_of(next)};
}

// Return the context that is the n-gram of a rank.
Context find(const Order& order, int64_t rank) {
  const int64_t byte = rank >> 3;
  if (!(order.flags[byte] >> (rank & 7) & 1)) return {};
  int64_t number = order.before[rank / kBlock];
  int64_t place = rank / kBlock * (kBlock / 8);
  for (; place + 8 <= byte; place += 8) {
    uint64_t word;
    std::memcpy(&word, order.flags + place, sizeof word);
    number += std::popcount(word);
  }
  for (; place < byte; ++place) number += std::popcount(order.flags[place]);
  const unsigned below = (1U << (rank & 7)) - 1;
  number += std::popcount(order.flags[byte] & below);
  return context_at(order, number);
}

// Return the rank of the follower that ends in a token, or -1.
int64_t follow(const Order& order, const Context& context, int64_t token) {
  const uint16_t* end = order.tokens + context.end;
  const uint16_t* place = std::lower_bound(order.tokens + context.begin, end, token);
  return place < end && *place == token ? place - order.tokens : -1;
}

double total_of(const Counts& counts, const Order& order, const Context& context) {
  const bool is_kept = context.end - context.begin >= kMany;
  Total& slot = order.totals[static_cast<uint64_t>(context.number) % kTotals];
  const auto name = static_cast<uint32_t>(context.number + 1);
  if (is_kept && slot.context == name) return slot.value;
  double total = 0;
  for (int64_t rank = context.begin; rank < context.end; ++rank) {
    total += counts.shares[order.shares[rank]];
  }
  if (is_kept) slot = {name, static_cast<float>(total)};
  return is_kept ? slot.value : total;
}

Context find_token(const Counts& counts, int64_t token) {
  const bool is_token = 0 <= token && token < counts.vocabulary_size;
  return is_token ? find(counts.orders[0], token) : Context{};
}

// Return the contexts that are known after a token, which follows those of `known`.
Known after(const Counts& counts, const Known& known, int64_t token) {
  Known longer;
  for (const auto& [order, context] : known) {
    if (order == counts.order_count) continue;
    const int64_t rank = follow(counts.orders[order - 1], context, token);
    if (rank >= 0) longer.add(order + 1, find(counts.orders[order], rank));
  }
  longer.add(1, find_token(counts, token));
  return longer;
}

Known find_known(const Counts& counts, const int32_t* tokens, int64_t length) {
  Known known;
  for (int64_t n = std::max<int64_t>(0, length - counts.order_count); n < length; ++n) {
    known = after(counts, known, tokens[n]);
  }
  return known;
}

double backoff_of(const Counts& counts, const Known::Item& item) {
  return counts.backoffs[counts.orders[item.order - 1].backoffs[item.context.number]];
}

// Return 0 if nothing is known to follow; else the class of the longest context.
int64_t evidence_of(const Counts& counts, const Known& known) {
  if (known.size == 0) return 0;
  const double backoff = backoff_of(counts, known.items[0]);
  const auto edge = std::upper_bound(std::begin(kEdges), std::end(kEdges), backoff);
  return 1 + kClasses * (known.items[0].order - 1) + (edge - std::begin(kEdges));
}

// Call give(order, context, factor) for each known context: a follower gets factor * its share.
// Return the factor of the unigrams. Factors are multiplied by `weight`.
template <typename Give>
double spread(const Counts& counts, const Known& known, double weight, Give give) {
  for (const auto& item : known) {
    const Order& order = counts.orders[item.order - 1];
    const double backoff = backoff_of(counts, item);
    const double total = total_of(counts, order, item.context);
    give(order, item.context, weight * (1 - backoff) / total);
    weight *= backoff;
  }
  return weight;
}

float unigram_of(const Counts& counts, int64_t token) {
  return 0 <= token && token < counts.vocabulary_size ? counts.unigram[token] : 0;
}

// Sums of shares take most of the time, so only those of contexts that the token follows are taken.
double prob_of(const Counts& counts, const Known& known, int64_t token) {
  double prob = 0, weight = 1;
  for (const auto& item : known) {
    const Order& order = counts.orders[item.order - 1];
    const double backoff = backoff_of(counts, item);
    const int64_t rank = follow(order, item.context, token);
    if (rank >= 0) {
      const double factor = weight * (1 - backoff) / total_of(counts, order, item.context);
      prob += factor * counts.shares[order.shares[rank]];
    }
    weight *= backoff;
  }
  return prob + weight * unigram_of(counts, token);
}

void mix_row(const Counts& counts, const Known& known, double weight, float* row) {
  double rest = weight;
  for (const auto& item : known) rest *= backoff_of(counts, item);
  const auto kept = static_cast<float>(1 - weight), added = static_cast<float>(rest);
  for (int64_t token = 0; token < counts.vocabulary_size; ++token) {
    row[token] = row[token] * kept + counts.unigram[token] * added;
  }
  spread(counts, known, weight, [&](const Order& order, const Context& context, double factor) {
    const auto scale = static_cast<float>(factor);
    for (int64_t rank = context.begin; rank < context.end; ++rank) {
      row[order.tokens[rank]] += scale * counts.shares[order.shares[rank]];
    }
  });
}

}  // namespace

extern "C" {

// Return the checksum of the sources that the library was built from.
uint32_t lacuna_sources() { return LACUNA_SOURCES; }

// Replace each of `rows` (count, V) by (1 - w) row + w P(next token | its context of `length`
// tokens). w is the item of `weights` (count, 25) that the evidence names.
void lacuna_counts_mix(const Counts* counts, int64_t count, float* rows, const int32_t* contexts,
                       int64_t length, const double* weights) {
  for (int64_t n = 0; n < count; ++n) {
    const Known known = find_known(*counts, contexts + n * length, length);
    const double weight = weights[n * (1 + kClasses * kMaxOrders) + evidence_of(*counts, known)];
    mix_row(*counts, known, weight, rows + n * counts->vocabulary_size);
  }
}

// Write P(token | context) of `count` tokens to `probs`, bit for bit those of a row; return the
// evidence.
int64_t lacuna_counts_probs(const Counts* counts, const int32_t* context, int64_t length,
                            int64_t count, const int32_t* tokens, float* probs) {
  const Known known = find_known(*counts, context, length);
  double rest = 1;
  for (const auto& item : known) rest *= backoff_of(*counts, item);
  for (int64_t n = 0; n < count; ++n)
    probs[n] = unigram_of(*counts, tokens[n]) * static_cast<float>(rest);
  spread(*counts, known, 1, [&](const Order& order, const Context& found, double factor) {
    const auto scale = static_cast<float>(factor);
    for (int64_t n = 0; n < count; ++n) {
      const int64_t rank = follow(order, found, tokens[n]);
      if (rank >= 0) probs[n] += scale * counts->shares[order.shares[rank]];
    }
  });
  return evidence_of(*counts, known);
}

// Write log P(following | context, token) for each of `count` tokens to `log_probs`.
void lacuna_counts_log_probs_of_next(const Counts* counts, const int32_t* context, int64_t length,
                                     int64_t count, const int32_t* tokens, int64_t next_count,
                                     const int32_t* following, double* log_probs) {
  const Known left = find_known(*counts, context, length);
  for (int64_t n = 0; n < count; ++n) {
    Known known = after(*counts, left, tokens[n]);
    double prob = 1;
    for (int64_t next = 0; next < next_count; ++next) {
      if (next > 0) known = after(*counts, known, following[next - 1]);
      prob *= prob_of(*counts, known, following[next]);
    }
    log_probs[n] = std::log(prob);
  }
}

}  // extern "C"
