// In each page that is framed: how wide it is; text whose contrast is below AA of WCAG 2; what can be clicked or scrolled
// but not be reached by keyboard; and whether a choice, and a link, do what they say.
const seen = [], luminance = c => { const [r, g, b] = c.map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgb = text => { paint.clearRect(0, 0, 1, 1); paint.fillStyle = text; paint.fillRect(0, 0, 1, 1);
  return [...paint.getImageData(0, 0, 1, 1).data].map(v => v / 255); };
const ground = (node, view) => { for (let at = node; at; at = at.parentElement) {
  const found = rgb(view.getComputedStyle(at).backgroundColor); if (found[3] > 0.99) return found.slice(0, 3); } return [1, 1, 1]; };
function look(frame) {
  const view = frame.contentWindow, page = frame.contentDocument, said = {name: frame.dataset.name, width: frame.clientWidth};
  const root = page.documentElement;
  said.needs = root.scrollWidth; said.faint = []; said.lost = [];
  const texts = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.data.trim(), holder = texts.currentNode.parentElement, style = view.getComputedStyle(holder);
    if (!text || !holder.getClientRects().length || style.visibility === "hidden" || holder.closest("svg")) continue;
    const pair = [luminance(rgb(style.color).slice(0, 3)), luminance(ground(holder, view))].sort((a, b) => a - b);
    const contrast = (pair[1] + 0.05) / (pair[0] + 0.05);
    if (contrast < 4.5) said.faint.push(`${holder.className || holder.tagName}: ${text.slice(0, 30)} ${contrast.toFixed(2)}`);
  }
  for (const each of page.querySelectorAll("a, select, summary, .box")) {
    if (!each.getClientRects().length) continue;
    each.focus(); if (page.activeElement !== each) said.lost.push(each.outerHTML.slice(0, 60)); }
  for (const each of page.querySelectorAll("*")) {
    const flow = view.getComputedStyle(each).overflowX;
    if ((flow === "auto" || flow === "scroll") && each.scrollWidth > each.clientWidth && each.tabIndex < 0)
      said.lost.push("scrolls: " + each.className); }
  const choice = page.querySelector("#by-target");
  if (choice) {
    const shown = () => [...page.querySelectorAll("tbody tr.result")].filter(row => row.getClientRects().length).length;
    said.rows = [shown()]; choice.selectedIndex = 2; said.rows.push(shown()); choice.selectedIndex = 0; said.rows.push(shown());
    const link = page.querySelector("tbody tr.result a"), place = page.getElementById(link.hash.slice(1));
    place.closest("details").open = false; link.click(); said.linked = true;
    return new Promise(done => setTimeout(() => { said.opened = place.closest("details").open; done(said); }, 300));
  }
  return said;
}
onload = async () => {
  for (const frame of document.querySelectorAll("iframe")) seen.push(await look(frame));
  document.querySelector("#seen").textContent = btoa(unescape(encodeURIComponent(JSON.stringify(seen))));
};
