//! Every byte that crosses a wire or a disk: ids, money, time, topics, messages, limits.
