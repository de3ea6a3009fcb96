// The page /docs: Swagger UI, with ids that follow what this page has shown, and links to read the last job.
"use strict";

const EXAMPLE_ID = /\b([a-z]{3})_[0-9a-z]*e7amp([12])e\b/g;
const ANY_ID = /"((?:mdl|ver|dst|job|cnd|art|key|prj|upl|whe|dlv)_[0-9a-hjkmnp-tv-z]{26})"/g;
const shown = JSON.parse(sessionStorage.getItem("shown") || "{}");
let authorization = null;

function remember(text) {
  for (const [, id] of [...text.matchAll(ANY_ID)].reverse()) {
    const kind = id.slice(0, 3);
    shown[kind] = [id, ...(shown[kind] || []).filter((other) => other !== id)].slice(0, 8);
  }
  sessionStorage.setItem("shown", JSON.stringify(shown));
  offerLastJob();
}

function filledIn(text) {
  return text.replace(EXAMPLE_ID, (example, kind, place) => (shown[kind] || [])[Number(place) - 1] || example);
}

function beforeRequest(request) {
  authorization = request.headers?.Authorization || authorization;
  request.url = filledIn(request.url);
  if (typeof request.body === "string") request.body = filledIn(request.body);
  return request;
}

function afterResponse(response) {
  const told = typeof response.text === "string" && (response.headers?.["content-type"] || "").includes("json");
  if (told && response.ok && response.url.includes("/v1/")) remember(response.text);
  return response;
}

async function openPage(event) {
  event.preventDefault();
  const page = window.open("", "_blank");
  await fetch("/v1/session", { method: "POST", headers: authorization ? { Authorization: authorization } : {} });
  page.location = event.target.href;
}

function offerLastJob() {
  const job = (shown.job || [])[0];
  if (!job) return;
  const bar = document.getElementById("last-job");
  bar.hidden = false;
  bar.querySelector("code").textContent = job;
  for (const link of bar.querySelectorAll("a")) link.href = `/v1/jobs/${job}/${link.dataset.page}?format=html`;
}

for (const link of document.querySelectorAll("#last-job a")) link.addEventListener("click", openPage);
offerLastJob();

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", paint);
paint();

window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  filter: false,
  persistAuthorization: true,
  validatorUrl: null,
  requestInterceptor: beforeRequest,
  responseInterceptor: afterResponse,
});
