"""Code generation: `.proto` services to typed Python. Needed when code is written, not when it runs."""
