// The search for the next word of one text. model/decoding/next_word.py describes its steps.
//
// Ownership: Python owns the search, and keeps its vocabulary, limits and tree while it lives. One
// thread runs it, and holds Python's lock: a search asks Python about unusual words.

#pragma once

#include <algorithm>
#include <coroutine>
#include <cstdlib>
#include <string>
#include <vector>

#include "tree.hpp"
#include "vocabulary.hpp"

extern "C" {

struct SearchLimits {
  double spelling_share, word_share, word_floor, branch_share;
  double high_cutoff;
  int64_t max_nodes, max_mixed, spelling_rows, spelling_rounds;
  int64_t width, word_rows, word_rounds, branches, top_tokens;
};

constexpr int64_t kLongest = 512;  // characters of a candidate that Python writes
constexpr int64_t kMaxWindow = 8;  // tokens of a window, and counts, of a mixture
constexpr int64_t kMaxCounts = 2;

// Decides if `append` (length,) may be a candidate. Writes how it is shown to `shown` (kLongest,)
// and returns its length; -1 if it may not.
using AskWord = int64_t (*)(int64_t owner, const char32_t* append, int64_t length, int64_t covered,
                            int64_t is_allowed, char32_t* shown);
// Returns the character, with the bits of Text, that UTF-8 spells; 0 if it has not ended; -1 if it
// is none that a text has.
using AskCharacter = int64_t (*)(const char* spelled, int64_t length);

// The search copies the arrays; each has a size of its own.
struct SearchText {
  const int32_t *between, *canonical;  // tokens before the cut, and those of q
  const char* typed;                   // q, in UTF-8
  const char32_t* stem;                // the unfinished word
  const char* before;                  // what precedes it, in lower case and UTF-8
  int64_t between_size, canonical_size, typed_size, stem_size, before_size;
  int64_t owner;           // for AskWord
  int64_t sentence_ended;  // the text ends in a mark that ends a sentence
  int64_t is_plain;        // words are shown as they are, and none is blocked
  int64_t asks_words;      // the writer has words of his own
  int64_t asks_marks;      // the last line has quotes or brackets, or is a space
  AskWord ask_word;
  AskCharacter ask_character;
};

// Counts that are mixed into a network's probabilities; see model/mixture.py.
struct Counts;
struct Mixture {
  const Counts* const* counts;   // (layers,)
  const double* const* weights;  // of each counts, (language_count + 1, class_count)
  const int8_t* languages;       // of each token, or -1, (V,)
  int64_t layers, language_count, class_count, has_network;  // at most kMaxCounts layers
  int64_t window_place, window_size;  // of the last tokens in a state, at most kMaxWindow
};

// A token after a node, with its probability.
struct SourceView {
  Node* node;
  int64_t token;
  double prob;
};

// A row to compute: of the node after `token`; of `node` itself if that is negative.
struct Want {
  Node* node;
  int64_t token;
};

// The shares in a probability, which sum to 1; `own` is that of the last of several counts.
struct Origins {
  double network, counts, cache, own;
};

// A candidate that was found, for Python.
struct FoundView {
  double prob, spaced;  // of it; the share of its spellings with a space
  double covered, end;  // characters of the text that its token covers; end of its own characters
  Origins origins;      // of its likeliest token
};

// The figures of a search, for Python.
struct SearchView {
  double total, cutoff;  // Z; the least probability of candidates that are all found
  int64_t found;         // candidates
  int64_t nodes, network_rows, cached_tokens;
  int64_t left_over;  // tokens of q's encoding that there was no room for
  int64_t mixed;      // distributions that are kept for this search
};

// A way to spell q, for Python.
struct SpellingView {
  int64_t rest;  // bytes of q that are not spelled yet
  double prob, total;
  Node* node;
};

}  // extern "C"

// Order items by falling value, equal ones by item, and keep the first `count`.
template <typename Item>
void keep_largest(const float* values, int64_t count, std::vector<Item>* items) {
  const auto is_before = [values](Item one, Item other) {
    return values[one] > values[other] || (values[one] == values[other] && one < other);
  };
  if (static_cast<int64_t>(items->size()) > count) {
    std::nth_element(items->begin(), items->begin() + count, items->end(), is_before);
    items->resize(static_cast<size_t>(count));
  }
  std::sort(items->begin(), items->end(), is_before);
}

// A coroutine that waits for rows. It does nothing until it is resumed.
class Task {
 public:
  struct promise_type {
    Task get_return_object() { return Task(Handle::from_promise(*this)); }
    std::suspend_always initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::abort(); }
  };
  using Handle = std::coroutine_handle<promise_type>;

  Task() = default;
  explicit Task(Handle handle) : handle_(handle) {}
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
  Task& operator=(Task&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Task() {
    if (handle_) handle_.destroy();
  }
  // Run to the next wait; return false at the end.
  bool resume() {
    if (handle_ && !handle_.done()) handle_.resume();
    return handle_ && !handle_.done();
  }

 private:
  Handle handle_;
};

// A way to spell q or its beginning.
struct Spelling {
  int64_t rest;
  double prob;
  Node* node;
  double total;               // what it adds to Z
  Range crossing;             // tokens that cross the end of q
  std::vector<float> probs;   // of these
  std::vector<int32_t> next;  // tokens that spell more of q
};

// A spelling and one more token.
struct Path {
  double prob;
  size_t spelling;
  int64_t token;
};

// See the classes of these names in tests/reference/next_word.py.
struct Source {
  Node* node;
  int64_t token;
  double prob;
  int64_t covered;
};
struct PartialWord {
  double prob, ended_prob, doubtful_prob;
  Text suffix;
  std::string pending;
  Source last;
};
struct Branch {
  double prob;
  Node* node;
  Allowed allowed;
  Text suffix;
  std::string pending;
  int64_t spelling;  // its place; -1 if tokens cross nothing
  int64_t covered;
  bool begins_word;
  int64_t taken;
};
struct Found {
  Text text;
  double prob, likeliest, spaced;
  Source source;
};
// A decision about appended characters: the place of the candidate, or -1.
struct Decision {
  Text append;
  int64_t covered, place;
};

enum class Verdict { kNo, kYes, kAsk };  // kAsk: Python decides

struct Search {
  Search(const Vocabulary& vocabulary, const SearchLimits& limits, const CacheLm* cache_lm,
         Tree* tree, const SearchText& text);

  Task spell();
  Task follow();
  Task find_words(double all);
  void take_tail(double cutoff, int64_t limit);
  const float* probs(Node* node);

  const Vocabulary& vocabulary;
  const SearchLimits& limits;
  const CacheLm* cache_lm;
  Tree* tree;
  std::vector<int32_t> between, canonical;
  std::string typed;
  Text stem;
  std::string before;
  SearchText text;  // only its flags and functions: the arrays are the caller's
  bool skips_letters = false;

  Task task;
  bool is_spelled = false;
  std::vector<Want> wants;
  int64_t nodes = 0, network_rows = 0, cached_tokens = 0;
  int64_t left_over = 0;  // tokens of q's encoding that there is no room for
  std::vector<Spelling> spellings;
  double total = 0;
  std::vector<Found> found;
  double cutoff = 0;
  Text texts;                                                     // of the candidates, for Python
  std::vector<std::pair<Node*, std::unique_ptr<float[]>>> mixed;  // rows of nodes, corrected

 private:
  struct Rows {
    const std::vector<Want>& wants;
    bool await_ready() const { return wants.empty(); }
    void await_suspend(std::coroutine_handle<>) const {}
    void await_resume() const {}
  };

  int64_t room() const { return std::max<int64_t>(0, limits.max_nodes - nodes); }
  // Ask for the row of the node after a token, unless it is there.
  void want(Node* node, int64_t token);
  const Top& top(Node* node, Allowed allowed, double above, int64_t count);
  void add_spelling(int64_t rest, double prob, Node* node);
  void add_paths(size_t spelling, int64_t followed);
  void branch_from(size_t spelling, double prob);
  void branch(Branch branch);
  void next(const Branch& branch, double above, int64_t limit, std::vector<int64_t>* tokens,
            std::vector<float>* probs);
  void update_cutoff();
  void take(const Branch& branch, int64_t token, double prob);
  void accept(const Text& append, double prob, const Source& source, bool is_allowed,
              bool is_spaced);
  int64_t place_of(const Text& append, int64_t covered, bool is_allowed);
  int64_t find_place(const Text& append, int64_t covered, bool is_allowed);
  Verdict judge(const Text& append) const;
  Verdict judge_word(std::u32string_view body, bool is_new) const;

  std::vector<Path> paths;
  std::vector<PartialWord> partial_words;
  std::vector<Branch> branches;
  std::vector<Decision> decisions;
  double last_prob = 0;
};
