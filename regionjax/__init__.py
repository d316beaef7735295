"""regionjax: vision-language models that understand the region someone points at."""
