"""Files that survive a crash and stay whole: directory fence, durable writes, file digests."""
