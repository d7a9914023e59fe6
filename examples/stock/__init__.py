"""Generated from protos/; do not edit by hand."""
