#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include <c10/macros/Macros.h>

/// Minimal filtering F(m, 3) of one axis: m outputs of a filter of length 3 from m + 2 inputs d,
///   A^T [(G w) o (B^T d)],
/// the product of two polynomials by their values at m + 1 points and infinity (Winograd,
/// Arithmetic Complexity of Computations, 1980; Lavin and Gray 2016, section 4).
namespace curvature::detail {

template <size_t count>
using Numbers = std::array<float, count>;

template <int64_t m>
struct Filtering;

/// Points 0, 1, -1.
template <>
struct Filtering<2> {
  static constexpr std::array<double, 12> kFilter = {1.0, 0.0,  0.0, 0.5, 0.5, 0.5,  // G
                                                     0.5, -0.5, 0.5, 0.0, 0.0, 1.0};
  C10_ALWAYS_INLINE static Numbers<4> inputs(const Numbers<4>& d) {  // B^T d
    return {d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]};
  }
  C10_ALWAYS_INLINE static Numbers<2> outputs(const Numbers<4>& p) {  // A^T p
    return {p[0] + p[1] + p[2], p[1] - p[2] - p[3]};
  }
  C10_ALWAYS_INLINE static Numbers<4> gradients(const Numbers<2>& g) {  // A g
    return {g[0], g[0] + g[1], g[0] - g[1], -g[1]};
  }
};

/// Points 0, a, -a, b, -b with a = sqrt(1/2), b = sqrt(2), which round less than the usual integers
/// 1 and 2: outputs of 128 channels are 9e-7 of the norm off, instead of 1.9e-6.
template <>
struct Filtering<4> {
  static constexpr double kRoot = 1.4142135623730951;
  static constexpr auto a = static_cast<float>(kRoot / 2), b = static_cast<float>(kRoot);
  static constexpr std::array<double, 18> kFilter = {
      1.0,      0.0,        0.0,      -2.0 / 3, -kRoot / 3, -1.0 / 3, -2.0 / 3, kRoot / 3, -1.0 / 3,
      1.0 / 6., kRoot / 6., 1.0 / 3., 1.0 / 6., -kRoot / 6, 1.0 / 3,  0.0,      0.0,       1.0};
  C10_ALWAYS_INLINE static Numbers<6> inputs(const Numbers<6>& d) {
    const float even_a = d[4] - 2.0F * d[2], odd_a = a * (d[3] - 2.0F * d[1]);
    const float even_b = d[4] - 0.5F * d[2], odd_b = b * (d[3] - 0.5F * d[1]);
    return {
        d[0] - 2.5F * d[2] + d[4], even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b,
        d[1] - 2.5F * d[3] + d[5]};
  }
  C10_ALWAYS_INLINE static Numbers<4> outputs(const Numbers<6>& p) {
    const float even_a = p[1] + p[2], odd_a = a * (p[1] - p[2]);
    const float even_b = p[3] + p[4], odd_b = b * (p[3] - p[4]);
    return {p[0] + even_a + even_b, odd_a + odd_b, 0.5F * even_a + 2.0F * even_b,
            0.5F * odd_a + 2.0F * odd_b + p[5]};
  }
  C10_ALWAYS_INLINE static Numbers<6> gradients(const Numbers<4>& g) {
    const float even_a = g[0] + 0.5F * g[2], odd_a = a * (g[1] + 0.5F * g[3]);
    const float even_b = g[0] + 2.0F * g[2], odd_b = b * (g[1] + 2.0F * g[3]);
    return {g[0], even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, g[3]};
  }
};

}  // namespace curvature::detail
