"""Pages as they were served: logged beside the requests, archived as Parquet, joined with what came of them."""

from recsys_plugin.impressions.document import Impression, ServedPage
from recsys_plugin.impressions.log import ImpressionLog, ImpressionWriter

__all__ = ["Impression", "ImpressionLog", "ImpressionWriter", "ServedPage"]
