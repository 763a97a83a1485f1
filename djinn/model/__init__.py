"""Any Hugging Face decoder, driven layer by layer, with its KV cache in slabs that the pager owns."""
