"""Array maths: imports NumPy (and cv2 for colour and drawing), never onnx."""
