#include "core/extents.h"

#include <algorithm>
#include <tuple>

#include "core/checks.h"

namespace innerloop {

void Extents::reserve(int operands, size_t arrays) {
  lists.resize((size_t)operands);
  for (auto& list : lists) list.reserve(arrays);
}

void Extents::add(const TensorView& view, size_t index, int operand, bool written) {
  if (view.size() == 0) return;
  Extent e;
  memory_extent(view, e.low, e.high);
  e.array = (uint32_t)index;
  e.operand = (uint8_t)operand;
  e.written = written;
  if (lists.size() <= (size_t)operand) lists.resize((size_t)operand + 1);
  lists[(size_t)operand].push_back(e);
}

void Extents::check(const std::function<void(size_t, int, size_t, int)>& refuse) const {
  std::vector<Extent> all;
  size_t count = 0;
  for (const auto& list : lists) count += list.size();
  all.reserve(count);
  for (const auto& list : lists) all.insert(all.end(), list.begin(), list.end());
  auto before = [](const Extent& a, const Extent& b) { return a.low < b.low; };
  if (!std::is_sorted(all.begin(), all.end(), before)) std::sort(all.begin(), all.end(), before);
  const char *read_end = nullptr, *write_end = nullptr;  // how far those before reach
  for (size_t i = 0; i < all.size(); i++) {
    const Extent& e = all[i];
    if (e.low < write_end || (e.written && e.low < read_end)) {
      for (size_t j = 0; j < i; j++) {
        if (all[j].high <= e.low || !(e.written || all[j].written)) continue;
        const bool in_order = std::tie(all[j].operand, all[j].array) < std::tie(e.operand, e.array);
        const Extent &first = in_order ? all[j] : e, &second = in_order ? e : all[j];
        refuse(first.array, first.operand, second.array, second.operand);
      }
    }
    const char*& end = e.written ? write_end : read_end;
    end = std::max(end, e.high);
  }
}

}  // namespace innerloop
