// What Streamlit calls, once when the strip appears and again whenever its data changed.
const strips = new WeakMap();
export default function ({ data, parentElement, setTriggerValue }) {
  const host = parentElement.querySelector(".strip");
  if (!strips.has(host)) strips.set(host, new Strip(host));
  strips.get(host).update(data, (token) => setTriggerValue("picked", { key: data.key, token }));
}
