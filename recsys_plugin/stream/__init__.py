"""From events to fresh profiles: workers that fold the event streams into the live feature views."""
