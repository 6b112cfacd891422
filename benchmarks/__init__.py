"""Side by side with a peer, interleaved, in one run; bounded and self-stopping. Nothing here is a test."""
