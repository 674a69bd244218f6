"""The tasks that heads are for."""

TASKS = (
    "PreTraining",
    "MaskedLM",
    "CausalLM",
    "Seq2SeqLM",
    "NextSentencePrediction",
    "SequenceClassification",
    "MultipleChoice",
    "TokenClassification",
    "QuestionAnswering",
    "TextEncoding",
    "ImageClassification",
    "MaskedImageModeling",
    "SemanticSegmentation",
    "ZeroShotImageClassification",
    "Backbone",
    "SpeechSeq2Seq",
    "CTC",
    "AudioClassification",
    "AudioFrameClassification",
    "AudioXVector",
)
"""What the `AutoModelFor...` classes are for."""
