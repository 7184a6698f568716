#include "layerwise/window_moment.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <tuple>
#include <utility>

#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include "core/matrix_product.hpp"

namespace curvature::detail {
namespace {

// Of the model of costs, in multiply-adds of a large matrix product; measured on one thread.
constexpr double kCall = 3e5;   // a matrix product more
constexpr double kCopy = 50;    // a number moved
constexpr double kGather = 85;  // a number put into its window
constexpr double kHalf = 0.6;   // a product of which half is wanted, against all of it

/// Products of narrower matrices are slow, and add up thousands of rows one by one: their rounding
/// is ten times that of the product of the windows.
constexpr int64_t kFewestChannels = 16;

/// Entries k and k2 of one axis meet: for some outputs they read pixel u of one component and
/// pixel u + shift of another, begin <= u < end.
struct Pair {
  int64_t k, k2, begin, end;
};

/// All pairs along an axis with the same components and shift.
struct Meeting {
  int64_t component = 0, component2 = 0, shift = 0;
  std::vector<Pair> pairs = {};
  std::vector<int64_t> cuts = {};  ///< where pairs begin or end; parts lie between them

  int64_t num_parts() const { return static_cast<int64_t>(cuts.size()) - 1; }
  int64_t begin(int64_t part) const { return cuts[static_cast<size_t>(part)]; }
  int64_t length(int64_t part) const { return begin(part + 1) - begin(part); }
  /// The part that begins there.
  int64_t part_at(int64_t position) const {
    return std::lower_bound(cuts.begin(), cuts.end(), position) - cuts.begin();
  }
  bool is_seen(int64_t part) const {
    return std::any_of(pairs.begin(), pairs.end(), [&](const Pair& pair) {
      return pair.begin <= begin(part) && begin(part) < pair.end;
    });
  }
  /// Has the same sign for all pairs.
  int64_t distance() const { return pairs.front().k2 - pairs.front().k; }
};

/// A meeting on each axis.
using Meeting3 = std::array<const Meeting*, 3>;

/// An image with its kernel, both with three axes.
struct Image {
  at::Tensor x;  ///< `[N, C, depth, height, width]`
  std::array<TapAxis, 3> axes;

  int64_t size(size_t axis) const { return x.size(static_cast<int64_t>(axis) + 2); }
  int64_t size(size_t axis, int64_t component) const {
    return std::max<int64_t>(0, floor_divide(size(axis) - component - 1, axes[axis].step) + 1);
  }
  int64_t taps(size_t axis) const { return static_cast<int64_t>(axes[axis].taps.size()); }
  int64_t kernel() const { return taps(0) * taps(1) * taps(2); }
  int64_t columns() const { return x.size(1) * kernel(); }
  int64_t count() const {
    return x.size(0) * axes[0].positions * axes[1].positions * axes[2].positions;
  }
};

Image image_of(at::Tensor x, const std::vector<TapAxis>& axes) {
  Image image;
  const size_t missing = 3 - axes.size();
  for (size_t i = 0; i < 3; ++i) {
    if (i < missing) {
      image.axes[i].taps.push_back({.component = 0, .begin = 0, .end = 1, .phase = 0});
      x = x.unsqueeze(2);
    } else {
      image.axes[i] = axes[i - missing];
    }
  }
  image.x = std::move(x);
  return image;
}

/// All pairs along an axis that the image lets meet.
std::vector<Meeting> meetings_of(const Image& image, size_t axis) {
  const std::vector<Tap>& taps = image.axes[axis].taps;
  std::map<std::tuple<int64_t, int64_t, int64_t>, Meeting> found;
  for (size_t k = 0; k < taps.size(); ++k) {
    for (size_t k2 = 0; k2 < taps.size(); ++k2) {
      const Tap &tap = taps[k], &tap2 = taps[k2];
      const int64_t shift = tap2.begin - tap.begin;
      const int64_t begin = std::max({int64_t{0}, -shift, tap.begin});
      const int64_t end = std::min(
          {image.size(axis, tap.component), image.size(axis, tap2.component) - shift, tap.end});
      if (tap.phase != tap2.phase || begin >= end) continue;
      Meeting& meeting = found[{tap.component, tap2.component, shift}];
      meeting.component = tap.component;
      meeting.component2 = tap2.component;
      meeting.shift = shift;
      meeting.pairs.push_back({static_cast<int64_t>(k), static_cast<int64_t>(k2), begin, end});
      meeting.cuts.insert(meeting.cuts.end(), {begin, end});
    }
  }
  std::vector<Meeting> meetings;
  for (auto& [key, meeting] : found) {
    std::sort(meeting.cuts.begin(), meeting.cuts.end());
    meeting.cuts.erase(std::unique(meeting.cuts.begin(), meeting.cuts.end()), meeting.cuts.end());
    meetings.push_back(std::move(meeting));
  }
  return meetings;
}

/// Visits a meeting of each axis; of two that are each other's transpose, one.
template <class Visit>
void for_each_meeting(const Image& image, const Visit& visit) {
  const std::array<std::vector<Meeting>, 3> all = {meetings_of(image, 0), meetings_of(image, 1),
                                                   meetings_of(image, 2)};
  for (const Meeting& z : all[0]) {
    for (const Meeting& y : all[1]) {
      for (const Meeting& x : all[2]) {
        if (std::array{z.distance(), y.distance(), x.distance()} >= std::array<int64_t, 3>{}) {
          visit(Meeting3{&z, &y, &x});
        }
      }
    }
  }
}

/// Visits the parts of a meeting that some pair sees.
template <class Visit>
void for_each_part(const Meeting3& meeting, const Visit& visit) {
  const auto& [z, y, x] = meeting;
  for (int64_t i = 0; i < z->num_parts(); ++i) {
    for (int64_t j = 0; j < y->num_parts(); ++j) {
      for (int64_t k = 0; k < x->num_parts(); ++k) {
        if (z->is_seen(i) && y->is_seen(j) && x->is_seen(k)) visit(i, j, k);
      }
    }
  }
}

/// Components of the image, laid out such that a row of pixels is a matrix: `[..., width, N, C]`.
class Components {
 public:
  explicit Components(const Image& image) : image_(image) {}

  const at::Tensor& at(int64_t z, int64_t y, int64_t x) {
    at::Tensor& component = made_[{z, y, x}];
    if (component.defined()) return component;
    const auto& axes = image_.axes;
    const at::Tensor pixels = image_.x.slice(2, z, std::nullopt, axes[0].step)
                                  .slice(3, y, std::nullopt, axes[1].step)
                                  .slice(4, x, std::nullopt, axes[2].step);
    // As the transpose of a matrix, which is quicker than a permutation of axes.
    const int64_t rows = pixels.size(0) * pixels.size(1);
    component =
        pixels.reshape({rows, -1})
            .t()
            .contiguous()
            .view({pixels.size(2), pixels.size(3), pixels.size(4), pixels.size(0), pixels.size(1)});
    return component;
  }

 private:
  const Image& image_;
  std::map<std::array<int64_t, 3>, at::Tensor> made_;
};

/// Correlations of the parts of a meeting, `[parts, parts, parts, C, C]`.
at::Tensor correlations(Components& components, const Meeting3& meeting) {
  const auto& [z, y, x] = meeting;
  const at::Tensor first = components.at(z->component, y->component, x->component);
  const at::Tensor second = components.at(z->component2, y->component2, x->component2);
  const int64_t channels = first.size(4);
  at::Tensor result = at::zeros(
      {z->num_parts(), y->num_parts(), x->num_parts(), channels, channels}, first.options());
  for_each_part(meeting, [&](int64_t i, int64_t j, int64_t k) {
    at::Tensor sum = result[i][j][k];
    const int64_t u = x->begin(k), width = x->length(k);
    for (int64_t w = z->begin(i); w < z->begin(i + 1); ++w) {
      for (int64_t v = y->begin(j); v < y->begin(j + 1); ++v) {
        const at::Tensor a = first[w][v].narrow(0, u, width).flatten(0, 1);
        const at::Tensor b =
            second[w + z->shift][v + y->shift].narrow(0, u + x->shift, width).flatten(0, 1);
        add_matrix_product(sum, a.t(), b);
      }
    }
  });
  return result;
}

/// Sums over the parts that each pair sees, along one axis: it then counts pairs.
at::Tensor sums_of_pairs(const at::Tensor& parts, int64_t axis, const Meeting& meeting) {
  if (parts.size(axis) == 1 && meeting.pairs.size() == 1) return parts;
  TensorList sums;
  for (const Pair& pair : meeting.pairs) {
    const int64_t first = meeting.part_at(pair.begin), end = meeting.part_at(pair.end);
    sums.push_back(end - first == 1 ? parts.select(axis, first)
                                    : parts.narrow(axis, first, end - first).sum(axis));
  }
  return at::stack(sums, axis);
}

/// What the second moment of entries p and p2 of the kernel gets.
struct Addend {
  int64_t p, p2;
  at::Tensor sum;  ///< `[C, C]`
};

/// The sums of a meeting's pairs, and their transposes.
void append_pairs(const Image& image, const Meeting3& meeting, const at::Tensor& sums,
                  std::vector<Addend>& addends) {
  const auto& [z, y, x] = meeting;
  const auto entry = [&image](int64_t i, int64_t j, int64_t k) {
    return (i * image.taps(1) + j) * image.taps(2) + k;
  };
  for (size_t i = 0; i < z->pairs.size(); ++i) {
    for (size_t j = 0; j < y->pairs.size(); ++j) {
      for (size_t k = 0; k < x->pairs.size(); ++k) {
        const at::Tensor sum = sums.select(0, static_cast<int64_t>(i))
                                   .select(0, static_cast<int64_t>(j))
                                   .select(0, static_cast<int64_t>(k));
        const int64_t p = entry(z->pairs[i].k, y->pairs[j].k, x->pairs[k].k);
        const int64_t p2 = entry(z->pairs[i].k2, y->pairs[j].k2, x->pairs[k].k2);
        addends.push_back({p, p2, sum});
        if (p != p2) addends.push_back({p2, p, sum.t()});
      }
    }
  }
}

/// To `second` `[C * kernel, C * kernel]`, row by row: one after the other they fill cache lines.
void add_all(std::vector<Addend>& addends, const Image& image, at::Tensor& second) {
  std::sort(addends.begin(), addends.end(), [](const Addend& a, const Addend& b) {
    return std::pair(a.p, a.p2) < std::pair(b.p, b.p2);
  });
  const int64_t channels = image.x.size(1), kernel = image.kernel();
  const at::Tensor blocks = second.view({channels, kernel, channels, kernel});
  for (const Addend& addend : addends) {
    blocks.select(3, addend.p2).select(1, addend.p).add_(addend.sum);
  }
}

/// The sum of all windows `[C * kernel]`.
at::Tensor sum_of_windows(const Image& image) {
  const at::Tensor pixels = image.x.sum(0);  // [C, depth, height, width]
  TensorList entries;
  for (const Tap& z : image.axes[0].taps) {
    for (const Tap& y : image.axes[1].taps) {
      for (const Tap& x : image.axes[2].taps) {
        at::Tensor seen = pixels;
        int64_t axis = 0;
        for (const Tap* tap : {&z, &y, &x}) {
          const auto i = static_cast<size_t>(axis++);
          const int64_t size = image.size(i, tap->component);
          const int64_t begin = std::clamp<int64_t>(tap->begin, 0, size);
          const int64_t end = std::clamp(tap->end, begin, size);
          seen = seen.slice(axis, tap->component, std::nullopt, image.axes[i].step)
                     .narrow(axis, begin, end - begin);
        }
        entries.push_back(seen.sum({1, 2, 3}));
      }
    }
  }
  return at::stack(entries, 1).flatten();
}

InputMoment add_moment(const Image& image, at::Tensor& second) {
  Components components(image);
  std::vector<Addend> addends;
  for_each_meeting(image, [&](const Meeting3& meeting) {
    at::Tensor sums = correlations(components, meeting);
    for (size_t axis = 0; axis < 3; ++axis) {
      sums = sums_of_pairs(sums, static_cast<int64_t>(axis), *meeting[axis]);
    }
    append_pairs(image, meeting, sums, addends);
  });
  add_all(addends, image, second);
  return {sum_of_windows(image), static_cast<double>(image.count())};
}

double cost_of_correlations(const Image& image) {
  const auto examples = static_cast<double>(image.x.size(0));
  const double square = static_cast<double>(image.x.size(1) * image.x.size(1));
  double cost = kCopy * static_cast<double>(image.x.numel());
  for_each_meeting(image, [&](const Meeting3& meeting) {
    double moved = 0;  // squares
    for_each_part(meeting, [&](int64_t i, int64_t j, int64_t k) {
      const auto rows = static_cast<double>(meeting[0]->length(i) * meeting[1]->length(j));
      const auto width = static_cast<double>(meeting[2]->length(k));
      cost += rows * (kCall + square * examples * width);
      ++moved;
    });
    double pairs = 1;
    for (const Meeting* axis : meeting) pairs *= static_cast<double>(axis->pairs.size());
    moved += 2 * pairs;
    cost += kCopy * moved * square;
  });
  return cost;
}

double cost_of_windows(const Image& image) {
  const auto rows = static_cast<double>(image.count()), n = static_cast<double>(image.columns());
  return rows * n * ((image.kernel() == 1 ? kCopy : kGather) + kHalf * n);
}

}  // namespace

void use_window_moment(const at::Tensor& x, const std::vector<TapAxis>& axes, LayerPart& part) {
  const Image image = image_of(x, axes);
  part.moment_is_cheaper =
      image.x.size(1) >= kFewestChannels && cost_of_correlations(image) < cost_of_windows(image);
  part.add_moment = [image](at::Tensor& second) { return add_moment(image, second); };
}

}  // namespace curvature::detail
