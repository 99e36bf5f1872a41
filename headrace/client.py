"""For programs that read answers: `from headrace.client import AnswerReader, follow_answers, read_answers`.

Lives here: the names.  Never here: what they do (`operators/claims/answers.py` decides which records count,
`engine/answering/reading.py` reads them with aiokafka).

Whoever has a Kafka client of another kind hands its records to `AnswerReader.take`.
"""

from engine.answering.reading import follow_answers, read_answers
from engine.settings import KafkaSettings
from operators.claims.answers import AnswerReader, PartitionRead
from topics.messages import Prediction

__all__ = ["AnswerReader", "KafkaSettings", "PartitionRead", "Prediction", "follow_answers", "read_answers"]
