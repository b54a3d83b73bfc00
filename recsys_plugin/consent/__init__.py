"""What users allow, and whose events are not to be kept: light enough for requests and workers."""

from recsys_plugin.consent.consent import Consent

__all__ = ["Consent"]
