"""Open Inference Protocol v2 over HTTP (kserve/open-inference-protocol, inference_rest.md)."""
