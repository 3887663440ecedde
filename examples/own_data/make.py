"""Draw the images of this example: things one photographs or scans in a small workshop.

    python examples/own_data/make.py

They differ in size, file type and color mode as in real folders: JPEG and PNG; RGB, gray, RGBA and
palette; one photograph is stored rotated, with an EXIF tag, as phones do.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

HERE = Path(__file__).parent
FONT = HERE.parents[1] / "dsvl_tune" / "demo" / "fonts" / "DejaVuSans.ttf"
INK = (38, 36, 34)
RNG = np.random.default_rng(7)
DIAL = (640, 460)
"""Middle of the gauge's dial."""
GLASS = ((96, 140, 150), (150, 120, 80), (120, 130, 110))
"""Colors of the jars."""
BOUGHT = {
    "Wood screws 4x40": 6.90,
    "Sandpaper P120": 3.25,
    "Linseed oil 0.5 l": 9.80,
    "Brush 40 mm": 4.55,
}
"""Lines of the receipt and their prices."""


def font(size: int) -> ImageFont.FreeTypeFont:
    """The project's own font, so that every machine draws the same images."""
    return ImageFont.truetype(str(FONT), size)


def wall(width: int, height: int, top: tuple[int, ...], bottom: tuple[int, ...]) -> Image.Image:
    """A lit surface: a gradient with soft stains."""
    ramp = np.linspace(0, 1, height)[:, None, None]
    stains = RNG.normal(0, 1, (height // 16 + 2, width // 16 + 2))
    coarse = Image.fromarray(np.uint8(np.clip(128 + 40 * stains, 0, 255)))
    soft = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))[..., None]
    color = (1 - ramp) * np.array(top) + ramp * np.array(bottom) + (soft - 128.0) / 8
    return Image.fromarray(np.uint8(np.clip(color, 0, 255)))


def photograph(scene: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A scene through a lens: smaller, a little soft, darker in the corners, with sensor noise."""
    small = scene.resize(size, Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(0.6))
    y, x = np.mgrid[-1 : 1 : size[1] * 1j, -1 : 1 : size[0] * 1j]
    light = 1.08 - 0.28 * (x**2 + y**2)
    noise = RNG.normal(0, 3, (size[1], size[0], 1))
    return Image.fromarray(np.uint8(np.clip(np.asarray(small) * light[..., None] + noise, 0, 255)))


def gauge(value: float, size: tuple[int, int]) -> Image.Image:
    """A pressure gauge on a wall, 0 to 10 bar over 270 degrees."""
    scene = gauge_body()
    draw = ImageDraw.Draw(scene)
    draw_scale(draw)
    draw.line((DIAL, on_dial(value, 225)), fill=(170, 30, 24), width=14)
    draw.ellipse((612, 432, 668, 488), fill=(60, 60, 62))
    return photograph(scene, size)


def gauge_body() -> Image.Image:
    """An empty dial with its shadow and pipe, on the wall."""
    scene = wall(1280, 960, (176, 170, 158), (120, 112, 100))
    shadow = Image.new("L", scene.size, 0)
    ImageDraw.Draw(shadow).ellipse((330, 170, 1010, 850), fill=150)
    scene.paste((40, 36, 30), mask=shadow.filter(ImageFilter.GaussianBlur(28)))
    draw = ImageDraw.Draw(scene)
    draw.rectangle((600, 760, 680, 960), fill=(150, 120, 60))
    draw.ellipse((310, 130, 970, 790), fill=(70, 72, 76), outline=(30, 30, 32), width=8)
    draw.ellipse((350, 170, 930, 750), fill=(240, 238, 228))
    return scene


def on_dial(bar: float, radius: float) -> tuple[float, float]:
    """Where a pressure is on the dial, `radius` px from its middle."""
    angle = math.radians(135 + 27 * bar)
    return DIAL[0] + radius * math.cos(angle), DIAL[1] + radius * math.sin(angle)


def draw_scale(draw: ImageDraw.ImageDraw) -> None:
    """Ticks, numbers, the red range and the unit."""
    for tick in range(51):
        inner, width = (235, 4) if tick % 5 else (215, 9)
        ends = (on_dial(tick / 5, inner), on_dial(tick / 5, 262))
        draw.line(ends, fill=INK, width=width)
    for bar in range(0, 11, 2):
        draw.text(on_dial(bar, 172), str(bar), font=font(48), fill=INK, anchor="mm")
    draw.arc((378, 198, 902, 722), 135 + 27 * 8, 135 + 270, fill=(190, 40, 30), width=14)
    draw.text((640, 590), "bar", font=font(44), fill=INK, anchor="mm")


def shelf() -> Image.Image:
    """Three boards of jars, seen from the front, upright."""
    scene = wall(1000, 1500, (206, 196, 180), (150, 138, 122))
    draw = ImageDraw.Draw(scene)
    rows = [("screws", "nails", "hooks"), ("bolts", "nuts"), ("washers", "springs", "pins")]
    for number, names in enumerate(rows):
        floor = 470 + 470 * number
        draw.rectangle((30, floor, 970, floor + 34), fill=(128, 88, 52))
        draw.rectangle((30, floor + 34, 970, floor + 44), fill=(84, 56, 32))
        for place, name in enumerate(names):
            draw_jar(draw, name, 70 + 310 * place, floor, GLASS[(number + place) % 3])
    return photograph(scene, (480, 720))


def draw_jar(
    draw: ImageDraw.ImageDraw, name: str, left: int, floor: int, glass: tuple[int, int, int]
) -> None:
    """A jar with a lid, a reflection and a label, standing on `floor`."""
    body = (left, floor - 330, left + 240, floor)
    draw.rounded_rectangle(body, 30, fill=glass, outline=(60, 66, 70), width=5)
    draw.rectangle((left + 24, floor - 372, left + 216, floor - 326), fill=(52, 54, 58))
    draw.line((left + 30, floor - 290, left + 30, floor - 40), fill=(226, 236, 238), width=9)
    draw.rectangle((left + 22, floor - 210, left + 218, floor - 110), fill=(244, 240, 226))
    draw.text((left + 120, floor - 160), name, font=font(42), fill=INK, anchor="mm")


def receipt() -> Image.Image:
    """A till receipt from a flatbed scanner: gray, slightly rotated, with dust."""
    scan = Image.new("L", (460, 760), 205)
    scan.paste(printed_receipt(), (30, 40))
    turned = scan.rotate(1.6, Image.Resampling.BICUBIC, fillcolor=205)
    soft = turned.filter(ImageFilter.GaussianBlur(0.5))
    speckle = np.where(RNG.random((760, 460)) < 0.0015, -90, 0)
    return Image.fromarray(np.uint8(np.clip(np.asarray(soft) + speckle, 0, 255)))


def printed_receipt() -> Image.Image:
    """The receipt as the till printed it."""
    paper = Image.new("L", (400, 680), 244)
    draw = ImageDraw.Draw(paper)
    draw.text((200, 50), "HARBOUR HARDWARE", font=font(30), fill=40, anchor="mm")
    draw.text((200, 92), "12 March 2024   16:42", font=font(20), fill=60, anchor="mm")
    for row, (name, price) in enumerate(BOUGHT.items()):
        draw.text((28, 160 + 56 * row), name, font=font(23), fill=50)
        draw.text((372, 160 + 56 * row), f"{price:.2f}", font=font(23), fill=50, anchor="ra")
    draw.line((28, 396, 372, 396), fill=70, width=3)
    draw.text((28, 416), "TOTAL", font=font(30), fill=30)
    total = f"{sum(BOUGHT.values()):.2f}"
    draw.text((372, 416), total, font=font(30), fill=30, anchor="ra")
    draw.text((28, 486), "paid by card", font=font(22), fill=70)
    for bar in range(60):
        if RNG.random() < 0.6:
            right = 52 + 5 * bar + int(RNG.integers(0, 3))
            draw.rectangle((50 + 5 * bar, 560, right, 640), fill=40)
    return paper


def sticker() -> Image.Image:
    """A hazard sticker cut out of its background: RGBA, transparent corners."""
    picture = Image.new("RGBA", (900, 780), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle(
        (10, 10, 890, 770), 60, fill=(250, 206, 40, 255), outline=(20, 20, 20, 255), width=18
    )
    draw.polygon(((450, 70), (720, 520), (180, 520)), outline=(20, 20, 20, 255), width=30)
    draw.polygon(
        ((470, 190), (400, 360), (450, 350), (420, 470), (510, 310), (458, 322)),
        fill=(20, 20, 20, 255),
    )
    draw.text((450, 600), "HIGH VOLTAGE", font=font(84), fill=(20, 20, 20, 255), anchor="mm")
    draw.text((450, 695), "400 V", font=font(72), fill=(20, 20, 20, 255), anchor="mm")
    return picture.resize((300, 260), Image.Resampling.LANCZOS)


def floor_plan() -> Image.Image:
    """A plan of three rooms drawn in few colors: palette."""
    plan = Image.new("RGB", (620, 400), (255, 255, 255))
    draw = ImageDraw.Draw(plan)
    rooms = {
        "workshop\n24 m²": ((30, 30, 340, 370), (214, 228, 244)),
        "office\n9 m²": ((340, 30, 590, 190), (244, 226, 206)),
        "store\n12 m²": ((340, 190, 590, 370), (216, 236, 212)),
    }
    for name, (box, color) in rooms.items():
        draw.rectangle(box, fill=color, outline=INK, width=6)
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        draw.multiline_text(middle, name, font=font(26), fill=INK, anchor="mm", align="center")
    for door in ((334, 90, 346, 140), (334, 260, 346, 310), (24, 180, 36, 240)):
        draw.rectangle(door, fill=(255, 255, 255))
    return plan.quantize(32, dither=Image.Dither.NONE)


def harbor() -> Image.Image:
    """Hills, water and a boat on an old gray photograph."""
    scene = wall(1000, 668, (214, 214, 214), (176, 176, 176))
    draw = ImageDraw.Draw(scene)
    for depth, shade in enumerate((150, 122, 96)):
        peaks = (
            300
            + 50 * depth
            - 80 * np.abs(np.sin(np.arange(0, 1001, 20) / (90 + 37 * depth) + depth * 2.1))
        )
        draw.polygon(
            [(0, 460), *zip(range(0, 1001, 20), peaks.tolist(), strict=True), (1000, 460)],
            fill=(shade,) * 3,
        )
    for row in range(450, 668, 6):
        shade = int(118 + 30 * math.sin(row * 0.9) + RNG.integers(-8, 8))
        draw.rectangle((0, row, 1000, row + 6), fill=(shade,) * 3)
    draw.polygon(((520, 520), (760, 520), (720, 572), (556, 572)), fill=(46,) * 3)
    draw.line((640, 520, 640, 300), fill=(40,) * 3, width=8)
    draw.polygon(((652, 310), (652, 505), (745, 505)), fill=(232,) * 3)
    return photograph(scene, (500, 333)).convert("L")


def main() -> None:
    """Write every image."""
    images = HERE / "images"
    images.mkdir(exist_ok=True)
    gauge(3.4, (640, 480)).save(images / "gauge_monday.jpg", quality=82)
    gauge(7.0, (400, 300)).save(images / "gauge_friday.jpg", quality=82)
    gauge(5.6, (520, 390)).save(images / "gauge_spare.jpg", quality=82)
    turn = Image.Exif()
    turn[0x0112] = 6  # orientation: to be turned a quarter clockwise when shown
    shelf().transpose(Image.Transpose.ROTATE_90).save(images / "shelf.jpg", quality=82, exif=turn)
    receipt().save(images / "receipt.png", optimize=True)
    sticker().save(images / "sticker.png", optimize=True)
    floor_plan().save(images / "plan.png", optimize=True)
    harbor().save(images / "harbour.jpg", quality=82)


if __name__ == "__main__":
    main()
