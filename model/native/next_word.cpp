// Find candidates for the next word: branch from the spellings, and extend partial words; see
// search.hpp.

#include "search.hpp"

namespace {

bool is_letter(char32_t character) { return character & kLetter; }

bool is_apostrophe(char32_t character) { return character == U'\'' || character == U'’'; }

bool is_capital(char32_t character) { return U'A' <= character && character <= U'Z'; }

// Write a word's form (model/words.py). Return false for other characters than those of ASCII and
// typographic apostrophes, and for a capital at the end, about which Python is asked.
bool write_form(std::u32string_view word, std::string* form) {
  for (const char32_t character : word) {
    const char32_t plain = is_apostrophe(character) ? U'\'' : character;
    if (plain >= 0x80) return false;
    *form += static_cast<char>(is_capital(plain) ? plain + ('a' - 'A') : plain);
  }
  if (word.empty() || is_capital(word.back())) return false;
  while (form->ends_with('\'')) form->pop_back();
  for (const std::string_view ending : {"'s", "'d", "'ll", "'re", "'ve"}) {
    if (!form->ends_with(ending)) continue;
    form->erase(form->size() - ending.size());
    break;
  }
  form->erase(0, std::min(form->find_first_not_of('\''), form->size()));
  return true;
}

bool has_letter(std::string_view form) {
  return std::any_of(form.begin(), form.end(),
                     [](char each) { return 'a' <= each && each <= 'z'; });
}

// Return how many characters of a text its first word takes; -1 if that may continue. `is_spaced`
// says if it is a mark and a space follows.
int64_t first_word(const Text& text, bool* is_spaced) {
  *is_spaced = false;
  size_t start = 0;
  while (start < text.size() && text[start] & kSpace) ++start;
  if (start == text.size()) return -1;
  const bool letters = is_letter(text[start]);
  for (size_t end = start; end < text.size(); ++end) {
    if (text[end] & kSpace || is_letter(text[end]) != letters) {
      *is_spaced = !letters && text[end] & kSpace;
      return static_cast<int64_t>(end);
    }
  }
  return letters ? -1 : static_cast<int64_t>(text.size());
}

}  // namespace

void Search::branch_from(size_t number, double prob) {
  const Spelling& spelling = spellings[number];
  if (!(prob > cutoff) || !(spelling.total > 0)) return;
  int64_t covered = 0;
  const size_t begin = typed.size() - static_cast<size_t>(spelling.rest);
  for (size_t n = begin; n < typed.size(); ++n) covered += (typed[n] & 0xc0) != 0x80;
  const bool begins_word = covered == static_cast<int64_t>(stem.size()) && !text.sentence_ended;
  const int64_t crossing = spelling.rest > 0 ? static_cast<int64_t>(number) : -1;
  branch({prob, spelling.node, kAll, {}, {}, crossing, covered, begins_word, 0});
}

Task Search::find_words(double all) {
  for (size_t n = 0; n < spellings.size(); ++n) branch_from(n, spellings[n].prob / all);
  for (int64_t round = 0; round < limits.word_rounds; ++round) {
    const double floor = std::max(last_prob * limits.word_share, limits.word_floor);
    std::erase_if(partial_words,
                  [&](const PartialWord& word) { return !(word.doubtful_prob > floor); });
    std::stable_sort(partial_words.begin(), partial_words.end(),
                     [](const PartialWord& one, const PartialWord& other) {
                       return one.doubtful_prob > other.doubtful_prob;
                     });
    const size_t rows =
        std::min(partial_words.size(), static_cast<size_t>(std::min(limits.word_rows, room())));
    if (rows == 0) break;
    const auto middle = partial_words.begin() + static_cast<int64_t>(rows);
    const std::vector<PartialWord> chosen(partial_words.begin(), middle);
    partial_words.erase(partial_words.begin(), middle);
    for (const PartialWord& word : chosen) want(word.last.node, word.last.token);
    co_await Rows{wants};
    for (const PartialWord& word : chosen) {
      Node* node = word.last.node->child(word.last.token);
      Allowed allowed = kAll;
      if (!word.pending.empty()) {
        allowed = kBytes;
      } else if (word.suffix.empty() || !(word.suffix.back() & kSpace)) {  // replace the estimate
        allowed = kLetters;
        const Top& letters = top(node, kLetters, cutoff / word.prob, limits.branches);
        const double ended = word.prob * (1 - std::min(1.0, letters.total));
        accept(word.suffix, ended - word.ended_prob, word.last, false, false);
      }
      const bool begins_word = word.suffix.size() == 1 && word.suffix[0] & kSpace;
      branch({word.prob, node, allowed, word.suffix, word.pending, -1, 0, begins_word, 0});
    }
  }
}

// Find the next tokens of a branch above a cutoff, falling, and their probabilities.
void Search::next(const Branch& branch, double above, int64_t limit, std::vector<int64_t>* tokens,
                  std::vector<float>* probs) {
  above /= branch.prob;
  tokens->clear();
  probs->clear();
  if (branch.spelling < 0) {
    const Top& found = top(branch.node, branch.allowed, above, limit);
    const size_t count = std::min(found.tokens.size(), static_cast<size_t>(limit));
    tokens->assign(found.tokens.begin(), found.tokens.begin() + static_cast<int64_t>(count));
    probs->assign(found.probs.begin(), found.probs.begin() + static_cast<int64_t>(count));
    return;
  }
  const Spelling& spelling = spellings[static_cast<size_t>(branch.spelling)];
  for (size_t n = 0; n < spelling.probs.size(); ++n) {
    if (spelling.probs[n] > static_cast<float>(above)) tokens->push_back(static_cast<int64_t>(n));
  }
  keep_largest(spelling.probs.data(), limit, tokens);
  for (int64_t& place : *tokens) {
    probs->push_back(spelling.probs[static_cast<size_t>(place)]);
    place = vocabulary.sorted[spelling.crossing.begin + place];
  }
}

// Take the most probable next tokens while they could change the candidates.
void Search::branch(Branch branch) {
  std::vector<int64_t> tokens;
  std::vector<float> probs;
  next(branch, cutoff, limits.branches, &tokens, &probs);
  // A cached list may hold tokens below the cutoff for which it is read, and corrections of
  // estimates may lower that while they are taken.
  double above = cutoff;
  for (size_t n = 0; n < tokens.size(); ++n) {
    if (branch.taken == limits.width) {
      update_cutoff();
      above = std::max(above, cutoff);
    }
    const double prob = branch.prob * probs[n];
    if (prob <= above) break;
    ++branch.taken;
    take(branch, tokens[n], prob);
  }
  branches.push_back(std::move(branch));
  update_cutoff();
}

void Search::update_cutoff() {
  const size_t width = static_cast<size_t>(limits.width);
  if (found.size() < width) return;
  std::vector<double> probs;
  for (const Found& each : found) probs.push_back(each.prob);
  const auto last = probs.begin() + limits.width - 1;
  std::nth_element(probs.begin(), last, probs.end(), std::greater<>());
  last_prob = *last;
  cutoff = limits.branch_share * last_prob;
}

// Add a next token to the candidates, or to the partial words.
void Search::take(const Branch& branch, int64_t token, double prob) {
  std::u32string_view surface = surface_of(vocabulary, token);
  const Source source{branch.node, token, prob / branch.prob, branch.covered};
  char32_t character;
  if (surface.empty()) {  // a byte
    std::string spelled = branch.pending;
    spelled += spelling_of(vocabulary, token);
    const auto length = static_cast<int64_t>(spelled.size());
    const int64_t found = text.ask_character(spelled.data(), length);
    if (found == 0 && prob > limits.word_floor) {
      partial_words.push_back({prob, 0, prob, branch.suffix, spelled, source});
    }
    if (found <= 0) return;
    character = static_cast<char32_t>(found);
    surface = {&character, 1};
  }
  Text suffix = branch.suffix;
  suffix += surface.substr(std::min(surface.size(), static_cast<size_t>(branch.covered)));
  if (skips_letters && !suffix.empty() && is_letter(suffix[0])) return;
  bool is_spaced;
  const int64_t size = first_word(suffix, &is_spaced);
  const bool is_allowed = branch.begins_word && vocabulary.is_word[token];
  if (size >= 0) {
    suffix.resize(static_cast<size_t>(size));
    return accept(suffix, prob, source, is_allowed, is_spaced);
  }
  double ended = 0;
  if (!suffix.empty() && !(suffix.back() & kSpace)) {
    ended = prob * vocabulary.word_end_probs[token];
    if (ended > 0) accept(suffix, ended, source, is_allowed, false);
  }
  // How often a number ends after a digit says little: that depends on its length.
  const bool is_number = !suffix.empty() && suffix.back() & kDigit;
  const double doubtful = is_number ? prob : prob - ended;
  if (doubtful > limits.word_floor) {
    partial_words.push_back({prob, ended, doubtful, std::move(suffix), {}, source});
  }
}

// Add to the probability of a candidate, if the rules allow it.
void Search::accept(const Text& append, double prob, const Source& source, bool is_allowed,
                    bool is_spaced) {
  const int64_t place = place_of(append, source.covered, is_allowed);
  if (place < 0) return;
  Found& own = found[static_cast<size_t>(place)];
  if (!own.source.node || prob > own.likeliest) {
    own.likeliest = prob;
    own.source = source;
  }
  own.prob += prob;
  if (is_spaced) own.spaced += prob;
}

// Return what find_place returned for these characters before, or returns now.
int64_t Search::place_of(const Text& append, int64_t covered, bool is_allowed) {
  Decision* known = nullptr;
  for (Decision& each : decisions) {
    if (each.append == append && (text.is_plain || each.covered == covered)) known = &each;
  }
  if (known && (known->place >= 0 || !is_allowed)) return known->place;
  const int64_t place = find_place(append, covered, is_allowed);
  if (known) {
    known->place = place;
  } else {
    decisions.push_back({append, covered, place});
  }
  return place;
}

// Return the place of the candidate that some characters make, which may be new; -1 if the rules
// leave it out.
int64_t Search::find_place(const Text& append, int64_t covered, bool is_allowed) {
  Verdict verdict = Verdict::kAsk;
  if (text.is_plain && !append.empty()) verdict = is_allowed ? Verdict::kYes : judge(append);
  if (verdict == Verdict::kNo) return -1;
  Text written = append;
  for (char32_t& character : written) character &= kCodePoint;
  if (verdict == Verdict::kAsk) {
    char32_t shown[kLongest];
    const auto length = static_cast<int64_t>(written.size());
    const int64_t size =
        text.ask_word(text.owner, written.data(), length, covered, is_allowed, shown);
    if (size < 0) return -1;
    written.assign(shown, static_cast<size_t>(size));
  }
  for (size_t n = 0; n < found.size(); ++n) {
    if (found[n].text == written) return static_cast<int64_t>(n);
  }
  found.push_back({std::move(written), 0, 0, 0, {}});
  return static_cast<int64_t>(found.size()) - 1;
}

// Decide simple cases as CandidateRules does (model/decoding/candidates.py).
Verdict Search::judge(const Text& append) const {
  const bool is_new = append[0] & kSpace;
  std::u32string_view body = append;
  while (!body.empty() && body[0] & kSpace) body.remove_prefix(1);
  if (body.empty()) return Verdict::kAsk;
  if (is_letter(body[0])) return judge_word(body, is_new);
  const auto each_is = [&](char32_t kinds) {
    return std::all_of(body.begin(), body.end(), [=](char32_t each) { return each & kinds; });
  };
  if (each_is(kAlnum)) return is_new || stem.empty() ? Verdict::kYes : Verdict::kAsk;
  const bool fits = each_is(kAlnum | kMark) && !text.sentence_ended && !text.asks_marks;
  return fits && !is_new ? Verdict::kYes : Verdict::kAsk;
}

Verdict Search::judge_word(std::u32string_view body, bool is_new) const {
  Text word = is_new ? Text() : stem;
  for (const char32_t character : body) word += character & kCodePoint;
  std::string form;
  if (text.sentence_ended || !write_form(word, &form)) return Verdict::kAsk;
  const Verdict no = text.asks_words ? Verdict::kAsk : Verdict::kNo;
  if (is_apostrophe(word.back())) {
    const char32_t last = word.size() > 1 ? word[word.size() - 2] : 0;
    const bool is_plural = last == U's' || last == U'S';
    return is_plural || text.asks_marks ? Verdict::kAsk : no;
  }
  if (!has_letter(form) || is_known(vocabulary.known_words, vocabulary.known_count, form)) {
    return Verdict::kYes;
  }
  return before.find(form) == std::string::npos ? no : Verdict::kAsk;
}

void Search::take_tail(double above, int64_t limit) {
  std::vector<int64_t> tokens;
  std::vector<float> probs;
  for (Branch& branch : branches) {
    next(branch, above, limit, &tokens, &probs);
    for (size_t n = static_cast<size_t>(branch.taken); n < tokens.size(); ++n) {
      const double prob = branch.prob * probs[n];
      if (prob <= above) break;
      ++branch.taken;
      take(branch, tokens[n], prob);
    }
  }
}
