#pragma once

#include <cstdint>

namespace curvature::optim {

/// When what is expensive (a basis, a root) is computed anew: in steps t with t >= start and
/// (t - start) mod interval = 0, and in the first `warm` ones.
struct RefreshOptions {
  int64_t interval = 1;  ///< T
  int64_t start = 1;     ///< the first one
  int64_t warm = 0;      ///< every step up to this one
  /// Parameters take turns: after the first refresh, number i's come i steps earlier, so that no
  /// single step renews all of them.
  bool stagger = false;
  /// A due basis is left as it is while the factor's entries off the diagonal, in that basis, have
  /// a norm of at most this number times that of all: 0 renews always, 1 never.
  double tolerance = 0;
};

/// Whether a refresh is due in step `t` (from 1) of view number `index`.
bool refresh_is_due(const RefreshOptions& options, int64_t t, int64_t index);

/// @throws OptionError
void check_refresh(const RefreshOptions& options);

}  // namespace curvature::optim
