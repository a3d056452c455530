"""Message transports behind one small class."""

from popexd.bus.base import Bus, Delivery, Message, Will

__all__ = ["Bus", "Delivery", "Message", "Will"]
