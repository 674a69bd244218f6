"""The parts that models are built from. Nothing here sees a configuration: fields are plain values."""
