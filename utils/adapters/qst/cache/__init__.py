"""The backbone cache: which documents a batch holds, where their states are kept, how layers are passed over."""
